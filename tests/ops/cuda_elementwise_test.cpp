// RMSNorm, rotation, SwiGLU and cross-entropy by the kernels, at the widths they serve, against the references in fp64.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sigmoid.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "cairn/ops/cross_entropy/cross_entropy.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/rotary/rotary.h"
#include "cairn/ops/swiglu/swiglu.h"
#include "ops/compare.h"

namespace cairn {
namespace {

using namespace testing;

class CudaElementwise : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no GPU here";
    if (cuda_kernels() == nullptr || cuda_kernels()->norm_forward == nullptr) GTEST_SKIP() << "built without CUDA";
  }
  at::Tensor random(at::IntArrayRef sizes, double scale = 1, double mean = 0) { return normal(random_, sizes, scale, mean).to(at::kCUDA); }
  Random random_{20255, 1};
};

TEST_F(CudaElementwise, NormOfEveryWidth) {
  const Operator reference = [](const Tensors& x) { return rms_norm_reference(x[0], x[1]); };
  const Operator naive = [](const Tensors& x) { return x[0] * at::rsqrt((x[0] * x[0]).mean(-1, true) + kNormEps) * x[1]; };
  for (const int64_t width : {16, 48, 64, 112, 128, 256, 512, 528, 1024}) {
    for (const int64_t rows : {1, 7, 300}) {
      const Operator fast = [](const Tensors& x) { return rms_norm(x[0], x[1]); };
      const Tensors x = {random({rows, width}, 2), random({width}, 0.2, 1)};
      ASSERT_TRUE(cuda_kernels()->norm_supports(x[0].to(at::kFloat).view({1, rows, 1, width}), x[1].to(at::kFloat), at::kFloat));
      const at::Tensor c = random({rows, width});
      const std::string what = fmt::format("{} x {}", rows, width);
      expect_close_fp32(fast, reference, x, c, what);
      expect_close_bf16(fast, reference, naive, x, c, what);
      expect_repeats(fast, x, c, at::kBFloat16, what);
      // fp32 in, bf16 out, as at the head of a block: fp32 gradients to bf16's accuracy.
      const Operator mixed = [](const Tensors& y) { return rms_norm(y[0], y[1], at::kBFloat16).to(at::kFloat); };
      const Outcome got = outcome(mixed, x, c, at::kFloat), want = outcome(reference, x, c, at::kDouble);
      EXPECT_LE(worst(got.y, want.y), largest(want.y) / 200) << what;
      for (size_t i = 0; i < 2; ++i) EXPECT_LE(worst(got.grads[i], want.grads[i]), largest(want.grads[i]) / 100) << what;
    }
  }
}

// Queries as a joint projection has them: strided heads.
TEST_F(CudaElementwise, NormAndRotationOfStridedHeads) {
  for (const int64_t width : {16, 64, 128, 256}) {
    for (const bool turned : {true, false}) {
      const int64_t B = 2, L = 37, H = 3;
      const auto table = [&](const at::Tensor& like) {
        return turned ? rotary_table(int64_t{1} << 33, L, width, 1e4, like.device(), like.scalar_type()) : RotaryTable{};
      };
      const auto heads = [&](const at::Tensor& x) { return x.narrow(2, 0, H * width).view({B, L, H, width}); };
      const Operator fast = [&](const Tensors& x) { return norm_rotate(heads(x[0]), x[1], table(x[0])); };
      const Operator reference = [&](const Tensors& x) { return norm_rotate_reference(heads(x[0]), x[1], table(x[0])); };
      const Tensors x = {random({B, L, (H + 2) * width}, 2), random({width}, 0.2, 1)};
      const at::Tensor c = random({B, L, H, width});
      const std::string what = fmt::format("width {}, turned {}", width, turned);
      expect_close_fp32(fast, reference, x, c, what);
      expect_close_bf16(fast, reference, reference, x, c, what);
      expect_repeats(fast, x, c, at::kBFloat16, what);
    }
  }
}

TEST_F(CudaElementwise, Swiglu) {
  const Operator fast = [](const Tensors& x) { return swiglu(x[0], x[1]); };
  const Operator joint = [](const Tensors& x) { return swiglu_joint(x[0]); };
  const Operator reference = [](const Tensors& x) { return swiglu_reference(x[0], x[1]); };
  const Operator naive = [](const Tensors& x) { return x[0] * at::sigmoid(x[0]) * x[1]; };
  const auto halves = [](const Operator& op) {
    return [op](const Tensors& x) {
      const int64_t width = x[0].size(-1) / 2;
      return op({x[0].narrow(-1, 0, width), x[0].narrow(-1, width, width)});
    };
  };
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{8}, {300, 1344}, {2, 5, 24}, {3, 12}}) {
    const Tensors x = {random(shape, 3), random(shape)};
    const at::Tensor c = random(shape);
    expect_close_fp32(fast, reference, x, c, "swiglu");
    expect_close_bf16(fast, reference, naive, x, c, "swiglu");
    std::vector<int64_t> twice = shape;
    twice.back() *= 2;
    const Tensors both = {random(twice, 3)};
    expect_close_fp32(joint, halves(reference), both, c, "joint");
    expect_close_bf16(joint, halves(reference), halves(naive), both, c, "joint");
    expect_repeats(joint, both, c, at::kBFloat16, "joint");
  }
}

TEST_F(CudaElementwise, CrossEntropyOfEveryVocabulary) {
  for (const int64_t vocab : {1, 3, 64, 1021, 5000}) {
    const int64_t rows = 67, width = 64;
    const at::Tensor target = at::randint(0, vocab, {rows}, at::TensorOptions(at::kCUDA).dtype(at::kLong));
    const Operator fast = [&](const Tensors& x) { return linear_cross_entropy(x[0], x[1], target).loss; };
    const Operator reference = [&](const Tensors& x) { return linear_cross_entropy_reference(x[0], x[1], target).loss; };
    const Tensors x = {random({rows, width}), random({vocab, width}, 0.5)};
    const at::Tensor c = random({rows});
    const std::string what = fmt::format("vocabulary {}", vocab);
    expect_close_fp32(fast, reference, x, c, what, 2e-5);
    // bf16: the loss stays fp32.
    Tensors rounded;
    for (const at::Tensor& t : x) rounded.push_back(t.to(at::kBFloat16).to(at::kDouble));
    const Outcome got = outcome(fast, rounded, c, at::kBFloat16), want = outcome(reference, rounded, c, at::kDouble);
    EXPECT_LE(worst(got.y, want.y), 1e-4 * largest(want.y) + 1e-5) << what;
    for (size_t i = 0; i < 2; ++i) EXPECT_LE(worst(got.grads[i], want.grads[i]), largest(want.grads[i]) / 60 + 1e-6) << what;
    const CrossEntropy one = linear_cross_entropy(x[0].to(at::kFloat), x[1].to(at::kFloat), target);
    const CrossEntropy two = linear_cross_entropy_reference(x[0].to(at::kFloat), x[1].to(at::kFloat), target);
    EXPECT_TRUE(one.correct.equal(two.correct)) << what;
  }
}

// A target outside the vocabulary: NaN in its own row, and the GPU goes on working.
TEST_F(CudaElementwise, CrossEntropyOfABadTarget) {
  at::Tensor target = at::randint(0, 50, {9}, at::TensorOptions(at::kCUDA).dtype(at::kLong));
  target[4].fill_(50);
  const at::Tensor loss = linear_cross_entropy(random({9, 32}).to(at::kFloat), random({50, 32}).to(at::kFloat), target).loss;
  EXPECT_EQ(loss.isnan().sum().item<int64_t>(), 1);
  EXPECT_TRUE(loss[4].isnan().item<bool>());
}

}  // namespace
}  // namespace cairn
