#include "cairn/ops/rotary/rotary.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>
#include <fmt/format.h>

#include <cmath>

#include "cairn/ops/norm/norm.h"
#include "ops/compare.h"

namespace cairn {
namespace {

using namespace testing;

class Rotary : public ::testing::Test {
 protected:
  void SetUp() override { CAIRN_NEED_TEST_DEVICE(); }
  Random random_{20253, 7};
};

RotaryTable table_of(const at::Tensor& x, int64_t first) {
  return rotary_table(first, x.size(1), x.size(3), 1e4, x.device(), x.scalar_type());
}
Operator fast(int64_t first) {
  return [=](const Tensors& x) { return norm_rotate(x[0], x[1], first < 0 ? RotaryTable{} : table_of(x[0], first)); };
}
// The fp64 table rounded as the model's is, so that only the operator is judged.
Operator reference(int64_t first) {
  return [=](const Tensors& x) {
    return norm_rotate_reference(
        x[0], x[1], first < 0 ? RotaryTable{} : rotary_table(first, x[0].size(1), x[0].size(3), 1e4, x[0].device(), at::kFloat));
  };
}
Operator naive(int64_t first) {
  return [=](const Tensors& x) {
    const at::Tensor y = x[0] * at::rsqrt(at::mean(x[0] * x[0], {-1}, true) + kNormEps) * x[1];
    if (first < 0) return y;
    const RotaryTable t = table_of(x[0], first);
    const at::Tensor c = t.cosine.to(y.scalar_type()).unsqueeze(1), s = t.sine.to(y.scalar_type()).unsqueeze(1);
    const int64_t half = y.size(3) / 2;
    const at::Tensor a = y.narrow(3, 0, half), b = y.narrow(3, half, half);
    return at::cat({a * c - b * s, a * s + b * c}, 3);
  };
}

// Angles reduced modulo 2 pi in long double before the cosine: right at any position, where fp32 angles would be noise.
TEST_F(Rotary, TableIsExactFarOut) {
  constexpr int64_t kWidth = 64;
  for (int64_t first : {int64_t{0}, int64_t{100'000}, (int64_t{1} << 24) + 1, (int64_t{1} << 31) + 12345, int64_t{1} << 36}) {
    const RotaryTable t = rotary_table(first, 5, kWidth, 1e4, test_device(), at::kFloat);
    ASSERT_EQ(t.cosine.scalar_type(), at::kFloat);
    for (int64_t p = 0; p < 5; ++p)
      for (int64_t i = 0; i < kWidth / 2; ++i) {
        const double angle = static_cast<double>(first + p) * std::pow(1e4, -2.0 * static_cast<double>(i) / kWidth);
        const double reduced = static_cast<double>(std::fmod(static_cast<long double>(angle), 2 * 3.14159265358979323846264338327950288L));
        // A last bit of the frequency moves the angle by 2^-53 of itself.
        const double slack = 2e-7 + 4e-16 * angle;
        EXPECT_NEAR(t.cosine[p][i].item<double>(), std::cos(reduced), slack) << first << " " << i;
        EXPECT_NEAR(t.sine[p][i].item<double>(), std::sin(reduced), slack) << first << " " << i;
      }
  }
}

TEST_F(Rotary, ScoresDependOnDistanceOnly) {
  const at::Tensor q = normal(random_, {1, 1, 1, 16}), k = normal(random_, {1, 1, 1, 16}), w = at::ones({16}, q.options());
  const auto score = [&](int64_t at_q, int64_t at_k) {
    return (norm_rotate_reference(q, w, table_of(q, at_q)) * norm_rotate_reference(k, w, table_of(k, at_k))).sum().item<double>();
  };
  EXPECT_NEAR(score(20, 7), score(1'000'020, 1'000'007), 1e-8);
  EXPECT_GT(std::abs(score(20, 7) - score(20, 8)), 1e-6);
}

TEST_F(Rotary, ReferenceGradientIsTheDifference) {
  const Tensors x = {normal(random_, {2, 3, 2, 8}), normal(random_, {8})};
  expect_differences(reference(5), x, normal(random_, x[0].sizes()), random_, "norm_rotate");
  expect_differences(reference(-1), x, normal(random_, x[0].sizes()), random_, "norm only");
}

TEST_F(Rotary, ValuesAndGradients) {
  for_each_isa([&](const std::string& isa) {
    for (const auto& [b, l, h, d] : {std::tuple<int64_t, int64_t, int64_t, int64_t>{1, 1, 1, 2},
                                     {2, 33, 3, 8},
                                     {1, 300, 8, 32},
                                     {20, 9, 2, 64},
                                     {1, 40, 2, 128},
                                     {1, 10, 3, 24},
                                     {2, 6, 1, 6}})
      for (int64_t first : {int64_t{-1}, int64_t{0}, int64_t{1} << 32}) {
        const Tensors x = {normal(random_, {b, l, h, d}), normal(random_, {d}, 0.2, 1.0)};
        const at::Tensor c = normal(random_, x[0].sizes());
        const std::string what = fmt::format("{} [{},{},{},{}] from {}", isa, b, l, h, d, first);
        expect_close_fp32(fast(first), reference(first), x, c, what);
        expect_close_bf16(fast(first), reference(first), naive(first), x, c, what);
      }
  });
}

TEST_F(Rotary, StridedAndEmpty) {
  const at::Tensor joint = normal(random_, {2, 30, 3, 4, 32}).to(at::kFloat), w = at::ones({32}, joint.options());
  const at::Tensor q = joint.select(2, 1);
  EXPECT_TRUE(at::equal(norm_rotate(q, w, table_of(q, 3)), norm_rotate(q.contiguous(), w, table_of(q, 3))));
  const at::Tensor none = q.narrow(1, 0, 0);
  EXPECT_EQ(norm_rotate(none, w, table_of(none, 3)).sizes(), none.sizes());
}

TEST_F(Rotary, RepeatsToTheBit) {
  const Tensors x = {normal(random_, {2, 500, 4, 32}), normal(random_, {32})};
  const at::Tensor c = normal(random_, x[0].sizes());
  for (auto type : {at::kFloat, at::kBFloat16}) expect_repeats(fast(77), x, c, type, "norm_rotate");
}

}  // namespace
}  // namespace cairn
