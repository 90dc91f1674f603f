// Landmark distillation by the kernels, against the reference in fp64: every width of the kernels, both orders, steps of every kind.
#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>

#include "cairn/ops/cuda/kernels.h"
#include "ops/distillation_case.h"

namespace cairn {
namespace {

using namespace testing;

class CudaDistillation : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no GPU here";
    if (cuda_kernels() == nullptr || cuda_kernels()->distillation_forward == nullptr) GTEST_SKIP() << "built without CUDA";
  }
  static DistillationCase on_gpu(DistillationCase c) {
    c.lse = c.lse.to(at::kCUDA), c.score = c.score.to(at::kCUDA);
    EXPECT_TRUE(cuda_kernels()->distillation_supports(c.lse.to(at::kFloat), c.score.to(at::kFloat)));
    return c;
  }
};

TEST_F(CudaDistillation, EveryNumberOfChunks) {
  Random random(11, 302);
  for (const int64_t C : {1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 129, 200, 256, 257, 300, 1000}) {
    for (const MassOrder order : {MassOrder::kByChunk, MassOrder::kNearestFirst}) {
      const int64_t S = 1 + random.below(C > 300  ? 2
                                         : C > 64 ? 3
                                                  : 5),
                    L = S * C + random.below(3 * S),
                    H = 1 + random.below(C > 200  ? 8
                                         : C > 64 ? 24
                                                  : 70);
      const DistillationCase c = on_gpu(DistillationCase(random, 1 + random.below(2), L, H, C, S, order));
      const at::Tensor cotangent = normal(random, {c.B, c.L}).to(at::kCUDA);
      expect_close_fp32(c.fast(), c.reference(), {c.score}, cotangent, c.text());
      expect_repeats(c.fast(), {c.score}, cotangent, at::kFloat, c.text());
    }
  }
}

TEST_F(CudaDistillation, ManyHeads) {
  Random random(12, 302);
  for (const int64_t H : {64, 65, 100, 500}) {
    for (const int64_t C : {3, 40, 260}) {
      const DistillationCase c = on_gpu(DistillationCase(random, 1, 2 * C + 1, H, C, 2, MassOrder::kNearestFirst));
      expect_close_fp32(c.fast(), c.reference(), {c.score}, normal(random, {c.B, c.L}).to(at::kCUDA), c.text());
    }
  }
}

// A mean's gradient is one number with steps of 0; masses and scores may be parts of larger tensors, their chunks even far apart.
TEST_F(CudaDistillation, StepsOfEveryKind) {
  Random random(13, 302);
  for (const int64_t C : {5, 12, 40, 270}) {
    DistillationCase c = on_gpu(DistillationCase(random, 2, 3 * C + 4, 6, C, 3, MassOrder::kByChunk));
    c.lse = c.lse.to(at::kFloat), c.score = c.score.to(at::kFloat);
    const auto run = [&](const at::Tensor& lse, const at::Tensor& score) {
      const at::Tensor x = score.detach().requires_grad_(true), y = landmark_distillation(lse, x, c.S, c.order);
      return Tensors{y.detach(), torch::autograd::grad({y.sum() / 7}, {x})[0]};
    };
    const Tensors want = run(c.lse, c.score);
    const auto part = [](const at::Tensor& x, int64_t dim) {  // as a part of a larger tensor
      std::vector<int64_t> sizes = x.sizes().vec();
      sizes[dim] += 3;
      const at::Tensor all = at::full(sizes, std::numeric_limits<double>::quiet_NaN(), x.options());
      all.narrow(dim, 1, x.size(dim)).copy_(x);
      return all.narrow(dim, 1, x.size(dim));
    };
    const auto check = [&](const at::Tensor& lse, const at::Tensor& score, const char* what) {
      const Tensors got = run(lse, score);
      for (int i = 0; i < 2; ++i) EXPECT_TRUE(got[i].equal(want[i])) << c.text() << " " << what << " " << i;
    };
    for (int64_t dim = 0; dim < 4; ++dim) check(part(c.lse, dim), dim < 2 ? part(c.score, dim) : part(c.score, 2), "part");
    check(c.lse.transpose(1, 2).contiguous().transpose(1, 2), c.score.transpose(0, 1).contiguous().transpose(0, 1), "transposed");
    check(c.lse.transpose(2, 3).contiguous().transpose(2, 3), c.score.transpose(1, 2).contiguous().transpose(1, 2), "chunks far apart");
  }
}

TEST_F(CudaDistillation, WhatIsNotVisibleHasNoPart) {
  Random random(14, 302);
  for (const int64_t C : {6, 16, 30, 64, 200, 300}) {
    for (const MassOrder order : {MassOrder::kByChunk, MassOrder::kNearestFirst}) {
      const DistillationCase c = on_gpu(DistillationCase(random, 2, 3 * C + 4, 7, C, 3, order));
      const at::Tensor cotangent = normal(random, {c.B, c.L}).to(at::kCUDA);
      const DistillationCase dirty = c.filled(std::numeric_limits<double>::quiet_NaN());
      const Outcome clean = outcome(c.fast(), {c.score}, cotangent, at::kFloat),
                    got = outcome(dirty.fast(), {dirty.score}, cotangent, at::kFloat);
      EXPECT_TRUE(got.y.equal(clean.y) && got.grads[0].equal(clean.grads[0])) << c.text();
      EXPECT_EQ(largest(got.grads[0].masked_fill(c.visible(), 0)), 0) << c.text();
    }
  }
}

TEST_F(CudaDistillation, MassesOfNothing) {
  Random random(15, 302);
  const double none = -std::numeric_limits<double>::infinity();
  for (const int64_t C : {3, 12, 40, 100, 300}) {
    DistillationCase c = on_gpu(DistillationCase(random, 2, 2 * C + 3, 5, C, 2, MassOrder::kByChunk));
    c.lse.select(2, 0).fill_(none);                  // a head without any mass
    c.lse.select(2, 3).narrow(2, 0, 1).fill_(none);  // a chunk that a head has no mass for
    const at::Tensor cotangent = normal(random, {c.B, c.L}).to(at::kCUDA);
    expect_close_fp32(c.fast(), c.reference(), {c.score}, cotangent, c.text());
    c.lse.narrow(3, 1, 1).fill_(none), c.score.narrow(2, 1, 1).fill_(none);
    const Outcome got = outcome(c.fast(), {c.score}, cotangent, at::kFloat);
    EXPECT_TRUE(got.y.isfinite().all().item<bool>() && got.grads[0].isfinite().all().item<bool>()) << c.text();
    c.lse.narrow(1, c.L - 1, 1).select(2, 1).fill_(std::numeric_limits<double>::quiet_NaN());
    const at::Tensor y = outcome(c.fast(), {c.score}, cotangent, at::kFloat).y;
    EXPECT_TRUE(y.narrow(1, c.L - 1, 1).isnan().all().item<bool>() && y.narrow(1, 0, c.L - 1).isfinite().all().item<bool>()) << c.text();
  }
}

// By the kernels and by LibTorch's operators: training of a model must not depend on which.
TEST_F(CudaDistillation, PlainPathSaysTheSame) {
  Random random(16, 302);
  const DistillationCase c = on_gpu(DistillationCase(random, 3, 200, 16, 12, 16, MassOrder::kNearestFirst));
  const at::Tensor cotangent = normal(random, {c.B, c.L}).to(at::kCUDA);
  const Outcome fast = outcome(c.fast(), {c.score}, cotangent, at::kFloat);
  enable_cuda_kernels(false);
  const Outcome plain = outcome(c.fast(), {c.score}, cotangent, at::kFloat);
  enable_cuda_kernels(true);
  EXPECT_LE(worst(fast.y, plain.y), 3e-6 * largest(plain.y));
  EXPECT_LE(worst(fast.grads[0], plain.grads[0]), 3e-6 * largest(plain.grads[0]));
}

}  // namespace
}  // namespace cairn
