#include "cairn/ops/norm/norm.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <cmath>

#include "ops/compare.h"

namespace cairn {
namespace {

using namespace testing;

class Norm : public ::testing::Test {
 protected:
  void SetUp() override { CAIRN_NEED_TEST_DEVICE(); }
  Random random_{20252, 7};
};

Operator fast() {
  return [](const Tensors& x) { return rms_norm(x[0], x[1]); };
}
Operator reference() {
  return [](const Tensors& x) { return rms_norm_reference(x[0], x[1]); };
}
at::Tensor naive_norm(const at::Tensor& x, const at::Tensor& weight) {
  return x * at::rsqrt(at::mean(x * x, {-1}, true) + kNormEps) * weight;
}
Operator naive() {
  return [](const Tensors& x) { return naive_norm(x[0], x[1]); };
}
Operator heads_of(int64_t heads, bool quick) {
  return [=](const Tensors& x) {
    if (quick) return head_rms_norm(x[0], x[1], heads);
    std::vector<int64_t> shape = x[0].sizes().vec();
    shape.back() = heads;
    shape.push_back(x[0].size(-1) / heads);
    return naive_norm(x[0].reshape(shape), x[1].view({heads, -1})).reshape(x[0].sizes());
  };
}

TEST_F(Norm, ReferenceIsTheDefinition) {
  const at::Tensor x = normal(random_, {3, 5}), w = normal(random_, {5});
  const at::Tensor y = rms_norm_reference(x, w);
  for (int64_t i = 0; i < 3; ++i) {
    double square = 0;
    for (int64_t j = 0; j < 5; ++j) square += std::pow(x[i][j].item<double>(), 2);
    for (int64_t j = 0; j < 5; ++j)
      EXPECT_NEAR(y[i][j].item<double>(), x[i][j].item<double>() / std::sqrt(square / 5 + 1e-6) * w[j].item<double>(), 1e-12);
  }
  expect_differences(reference(), {x, w}, normal(random_, {3, 5}), random_, "rms_norm");
  expect_differences(heads_of(3, true), {normal(random_, {4, 12}), normal(random_, {12})}, normal(random_, {4, 12}), random_,
                     "head_rms_norm");
}

TEST_F(Norm, ValuesAndGradients) {
  for_each_isa([&](const std::string& isa) {
    for (const std::vector<int64_t>& shape :
         {std::vector<int64_t>{256}, {3, 7, 256}, {1000, 40}, {5, 1}, {129, 7}, {2, 3, 100}, {2000, 64}}) {
      const int64_t n = shape.back();
      const Tensors x = {normal(random_, shape, 2.0, 0.3), normal(random_, {n}, 0.3, 1.0)};
      const at::Tensor c = normal(random_, shape);
      const std::string what = fmt::format("{} {} rows of {}", isa, x[0].numel() / n, n);
      expect_close_fp32(fast(), reference(), x, c, what);
      expect_close_bf16(fast(), reference(), naive(), x, c, what);
    }
  });
}

TEST_F(Norm, Heads) {
  for_each_isa([&](const std::string& isa) {
    for (const auto& [rows, heads, width] : {std::tuple<int64_t, int64_t, int64_t>{9, 1, 96}, {50, 4, 24}, {7, 3, 5}, {100, 16, 64}}) {
      const Tensors x = {normal(random_, {2, rows, heads * width}), normal(random_, {heads * width}, 0.3, 1.0)};
      const at::Tensor c = normal(random_, x[0].sizes());
      const std::string what = fmt::format("{} heads {} width {}", isa, heads, width);
      expect_close_fp32(heads_of(heads, true), heads_of(heads, false), x, c, what);
      expect_close_bf16(heads_of(heads, true), heads_of(heads, false), heads_of(heads, false), x, c, what);
    }
  });
}

// The stream of a bf16 model: fp32 in, bf16 out, one rounding.
TEST_F(Norm, WideInShortOut) {
  const at::Tensor x = normal(random_, {64, 192}), w = normal(random_, {192}, 0.1, 1.0), c = normal(random_, {64, 192}).to(at::kBFloat16);
  const at::Tensor x32 = x.to(at::kFloat).requires_grad_(true), w32 = w.to(at::kFloat).requires_grad_(true);
  const at::Tensor y = rms_norm(x32, w32, at::kBFloat16);
  ASSERT_EQ(y.scalar_type(), at::kBFloat16);
  const at::Tensor exact = rms_norm_reference(x32.detach().to(at::kDouble), w32.detach().to(at::kDouble));
  EXPECT_LE((y.detach().to(at::kDouble) - exact).abs().div(exact.abs() + 1e-6).max().item<double>(), 1.01 / 256);
  const Tensors got = torch::autograd::grad({y}, {x32, w32}, {c});
  EXPECT_EQ(got[0].scalar_type(), at::kFloat);
  const Outcome want = outcome(reference(), {x32.detach(), w32.detach()}, c, at::kDouble);
  EXPECT_LE(worst(got[0], want.grads[0]), 1e-5 * largest(want.grads[0]));
  EXPECT_LE(worst(got[1], want.grads[1]), 1e-5 * largest(want.grads[1]));
}

TEST_F(Norm, EmptyZeroAndStrided) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(test_device());
  const at::Tensor w = at::ones({16}, options).requires_grad_(true), none = at::zeros({0, 16}, options).requires_grad_(true);
  EXPECT_EQ(rms_norm(none, w).sizes(), none.sizes());
  EXPECT_EQ(largest(torch::autograd::grad({rms_norm(none, w).sum()}, {w})[0]), 0.0);
  EXPECT_EQ(largest(rms_norm(at::zeros({3, 16}, options), w.detach())), 0.0);
  const at::Tensor wide = normal(random_, {16, 40}).to(at::kFloat).t();
  EXPECT_TRUE(at::equal(rms_norm(wide, w.detach()), rms_norm(wide.contiguous(), w.detach())));
}

TEST_F(Norm, RepeatsToTheBit) {
  const Tensors x = {normal(random_, {3000, 64}), normal(random_, {64})};
  const at::Tensor c = normal(random_, x[0].sizes());
  for (auto type : {at::kFloat, at::kBFloat16}) expect_repeats(fast(), x, c, type, "rms_norm");
}

}  // namespace
}  // namespace cairn
