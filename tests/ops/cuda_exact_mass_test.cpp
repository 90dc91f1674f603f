// Exact-mass weights by the kernels: one backward instead of two, against the reference in fp64 and the composition of hsa and softmax.
#include <ATen/Context.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "cairn/ops/cuda/kernels.h"
#include "ops/exact_mass_case.h"

namespace cairn {
namespace {

using namespace testing;

class CudaExactMass : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no GPU here";
    if (cuda_kernels() == nullptr || cuda_kernels()->hsa_forward == nullptr) GTEST_SKIP() << "built without CUDA";
    const at::Tensor x = at::full({1, 16, 1, 64}, 0.0, at::TensorOptions(at::kCUDA).dtype(at::kBFloat16));
    const at::Tensor index = at::full({1, 16, 1, 1}, 0, at::TensorOptions(at::kCUDA).dtype(at::kLong));
    if (!cuda_kernels()->hsa_supports(x, x, index, x.narrow(3, 0, 1), 16, false, false)) GTEST_SKIP() << "needs Hopper";
  }
  static ExactMassCase on_gpu(ExactMassCase c) {
    for (at::Tensor& t : c.x) t = t.to(at::kCUDA);
    c.index = c.index.to(at::kCUDA);
    return c;
  }
};

TEST_F(CudaExactMass, AgainstTheReference) {
  Random random(24, 312);
  struct Sizes {
    int64_t B, L, H, G, D, C, S, N, Q;
  };
  for (const Sizes& z : {Sizes{2, 200, 16, 1, 64, 12, 16, 12, 1},
                         {1, 333, 16, 1, 64, 20, 16, 8, 1},
                         {2, 150, 8, 2, 64, 9, 16, 9, 1},
                         {1, 150, 8, 2, 64, 9, 16, 4, 2},
                         {1, 130, 4, 1, 32, 8, 16, 8, 1},
                         {1, 260, 16, 1, 128, 4, 64, 4, 1},
                         {1, 400, 8, 1, 64, 3, 128, 3, 1},
                         {1, 700, 16, 1, 64, 43, 16, 43, 1},
                         {1, 20, 16, 1, 96, 1, 16, 1, 1}}) {
    for (const double alpha : {1.0, 0.5, 0.05}) {
      const ExactMassCase c = on_gpu(ExactMassCase(random, z.B, z.L, z.H, z.G, z.D, z.C, z.S, z.N, z.Q, alpha));
      const at::Tensor cotangent = normal(random, {c.B, c.L, c.H, c.D}).to(at::kCUDA);
      Tensors rounded;
      for (const at::Tensor& t : c.x) rounded.push_back(t.to(at::kBFloat16).to(at::kDouble));
      const at::Tensor g = cotangent.to(at::kBFloat16).to(at::kDouble);
      const Outcome got = outcome(c.fast(), rounded, g, at::kBFloat16), composed = outcome(c.composed(), rounded, g, at::kBFloat16),
                    want = outcome(c.composed(), rounded, g, at::kDouble);
      EXPECT_TRUE(got.y.equal(composed.y) || worst(got.y, want.y) <= 1.5 * worst(composed.y, want.y)) << c.text();
      for (size_t i = 0; i < 4; ++i) {
        // No worse than by two backwards, each of which rounds.
        EXPECT_LE(worst(got.grads[i], want.grads[i]), 1.5 * worst(composed.grads[i], want.grads[i]) + largest(want.grads[i]) / 256)
            << c.text() << " gradient " << i;
        EXPECT_LE(worst(got.grads[i], want.grads[i]), largest(want.grads[i]) / 40 + 1e-3) << c.text() << " gradient " << i;
      }
      if (alpha < 1 && c.N > 1) {
        EXPECT_GT(largest(got.grads[3]), 0);
      }
      at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
      expect_repeats(c.fast(), rounded, g, at::kBFloat16, c.text());
      at::globalContext().setDeterministicAlgorithms(false, /*warn_only=*/false);
    }
  }
}

TEST_F(CudaExactMass, WeightsAndMasses) {
  Random random(25, 312);
  for (const int64_t N : {1, 7, 8, 9, 16, 30, 50, 70, 150}) {
    const ExactMassCase c = on_gpu(ExactMassCase(random, 2, 16 * N + 5, 8, 1, 64, N, 16, N, 1, 0.4));
    const auto run = [&](bool fast) {
      Tensors t;
      for (const at::Tensor& x : c.x) t.push_back(x.to(at::kBFloat16));
      return (fast ? hsa_exact_mass : hsa_exact_mass_composed)(t[0], t[1], t[2], c.index, t[3].to(at::kFloat), c.alpha, c.S, false);
    };
    const ExactMass got = run(true), want = run(false);
    EXPECT_TRUE(got.lse.equal(want.lse)) << c.text();
    EXPECT_LE(worst(got.weight, want.weight), 1e-6) << c.text();
    EXPECT_EQ(largest(got.weight.masked_fill((c.index >= 0).expand_as(got.weight), 0)), 0) << c.text();
  }
}

}  // namespace
}  // namespace cairn
