#include "cairn/ops/swiglu/swiglu.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <cmath>

#include "ops/compare.h"

namespace cairn {
namespace {

using namespace testing;

class Swiglu : public ::testing::Test {
 protected:
  void SetUp() override { CAIRN_NEED_TEST_DEVICE(); }
  Random random_{20254, 7};
};

Operator fast() {
  return [](const Tensors& x) { return swiglu(x[0], x[1]); };
}
Operator reference() {
  return [](const Tensors& x) { return swiglu_reference(x[0], x[1]); };
}
Operator naive() {
  return [](const Tensors& x) { return x[0] * at::sigmoid(x[0]) * x[1]; };
}

TEST_F(Swiglu, ReferenceGradientIsTheDifference) {
  const Tensors x = {normal(random_, {3, 7}), normal(random_, {3, 7})};
  expect_differences(reference(), x, normal(random_, {3, 7}), random_, "swiglu");
}

TEST_F(Swiglu, ValuesAndGradients) {
  for_each_isa([&](const std::string& isa) {
    for (const std::vector<int64_t>& shape : {std::vector<int64_t>{640}, {2, 50, 640}, {3, 5}, {1000, 33}, {7, 1}}) {
      const Tensors x = {normal(random_, shape, 3.0), normal(random_, shape)};
      const at::Tensor c = normal(random_, shape);
      expect_close_fp32(fast(), reference(), x, c, isa);
      expect_close_bf16(fast(), reference(), naive(), x, c, isa);
    }
  });
}

TEST_F(Swiglu, OfAJointProjection) {
  const Operator joint = [](const Tensors& x) { return swiglu_joint(x[0]); };
  const Operator apart = [](const Tensors& x) {
    const int64_t width = x[0].size(-1) / 2;
    return swiglu_reference(x[0].narrow(-1, 0, width), x[0].narrow(-1, width, width));
  };
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{64}, {2, 50, 640}, {3, 10}, {7, 2}}) {
    std::vector<int64_t> half = shape;
    half.back() /= 2;
    const Tensors x = {normal(random_, shape, 2.0)};
    const at::Tensor c = normal(random_, half);
    expect_close_fp32(joint, apart, x, c, "joint");
    expect_close_bf16(joint, apart, apart, x, c, "joint");
  }
}

TEST_F(Swiglu, Extremes) {
  for_each_isa([&](const std::string& isa) {
    const auto options = at::TensorOptions().dtype(at::kFloat);
    for (int64_t n : {4, 64}) {
      for (double g : {-1e30, -200.0, -88.0, -1e-20, 0.0, 1e-20, 88.0, 200.0, 1e30}) {
        const at::Tensor gate = at::full({n}, g, options).to(test_device()), up = at::full({n}, 2.0, options).to(test_device());
        const at::Tensor y = swiglu(gate, up);
        const double want = g < -87 ? 0.0 : 2 * g / (1 + std::exp(-g));
        EXPECT_NEAR(y[0].item<double>(), want, std::max(1e-6 * std::abs(want), 1e-7)) << isa << " " << g;
      }
      EXPECT_TRUE(
          std::isnan(swiglu(at::full({n}, std::nan(""), options).to(test_device()), at::full({n}, 1.0, options).to(test_device()))[n - 1]
                         .item<double>()));
    }
  });
}

TEST_F(Swiglu, HalvesOfOneTensorAndEmpty) {
  const at::Tensor joint = normal(random_, {2, 30, 80}).to(at::kFloat);
  const at::Tensor gate = joint.narrow(2, 0, 40), up = joint.narrow(2, 40, 40);
  EXPECT_TRUE(at::equal(swiglu(gate, up), swiglu(gate.contiguous(), up.contiguous())));
  EXPECT_EQ(swiglu(gate.narrow(1, 0, 0), up.narrow(1, 0, 0)).numel(), 0);
}

TEST_F(Swiglu, RepeatsToTheBit) {
  const Tensors x = {normal(random_, {300, 64}), normal(random_, {300, 64})};
  const at::Tensor c = normal(random_, x[0].sizes());
  for (auto type : {at::kFloat, at::kBFloat16}) expect_repeats(fast(), x, c, type, "swiglu");
}

}  // namespace
}  // namespace cairn
