// Landmark distillation: the reference against loops and finite differences, the fast path against the reference.
#include "cairn/ops/distillation/distillation.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "ops/distillation_case.h"

namespace cairn {
namespace {

using namespace testing;

TEST(Distillation, ReferenceIsItsDefinition) {
  Random random(1, 301);
  for (int i = 0; i < 40; ++i) {
    const DistillationCase c(random, /*most_chunks=*/9);
    const at::Tensor lse = c.lse.cpu(), score = c.score.cpu();
    const at::Tensor got = landmark_distillation_reference(lse, score, c.S, c.order);
    ASSERT_EQ(got.sizes(), (std::vector<int64_t>{c.B, c.L}));
    const auto mass_at = lse.accessor<double, 4>();
    const auto score_at = score.accessor<double, 3>();
    for (int64_t b = 0; b < c.B; ++b) {
      for (int64_t t = 0; t < c.L; ++t) {
        const int64_t visible = std::min(t / c.S, c.C);
        double expected = 0, scores = 0;
        for (int64_t k = 0; k < visible; ++k) scores += std::exp(score_at[b][t][k]);
        for (int64_t k = 0; k < visible; ++k) {
          double p = 0;
          for (int64_t h = 0; h < c.H; ++h) {
            double all = 0;
            for (int64_t j = 0; j < visible; ++j) all += std::exp(mass_at[b][t][h][j]);
            const int64_t slot = c.order == MassOrder::kByChunk ? k : visible - 1 - k;
            p += std::exp(mass_at[b][t][h][slot]) / all / static_cast<double>(c.H);
          }
          expected -= p * (score_at[b][t][k] - std::log(scores));
        }
        EXPECT_NEAR(got[b][t].item<double>(), expected, 1e-9 * (1 + expected)) << c.text() << " row " << b << " " << t;
      }
    }
  }
}

TEST(Distillation, ReferenceGradientIsThatOfDifferences) {
  Random random(2, 301);
  for (int i = 0; i < 12; ++i) {
    const DistillationCase c(random, /*most_chunks=*/9);
    if (c.score.numel() == 0) continue;
    expect_differences(c.reference(), {c.score}, normal(random, {c.B, c.L}), random, c.text());
  }
}

TEST(Distillation, FastPathAgainstReference) {
  CAIRN_NEED_TEST_DEVICE();
  Random random(3, 301);
  for (int i = 0; i < 40; ++i) {
    const DistillationCase c(random, i % 4 == 0 ? 120 : 40);
    const at::Tensor cotangent = normal(random, {c.B, c.L});
    expect_close_fp32(c.fast(), c.reference(), {c.score}, cotangent, c.text());
    expect_repeats(c.fast(), {c.score}, cotangent, at::kFloat, c.text());
  }
}

// Nothing to see: no chunk, one chunk, a text shorter than a chunk, no text, no sequence.
TEST(Distillation, FewChunksAndShortTexts) {
  CAIRN_NEED_TEST_DEVICE();
  Random random(4, 301);
  for (const auto& [B, L, C] :
       {std::tuple<int64_t, int64_t, int64_t>{2, 7, 0}, {2, 7, 1}, {2, 8, 1}, {2, 9, 1}, {1, 0, 3}, {0, 9, 1}, {1, 70, 1}}) {
    for (const MassOrder order : {MassOrder::kByChunk, MassOrder::kNearestFirst}) {
      const DistillationCase c(random, B, L, /*H=*/3, C, /*S=*/8, order);
      const Outcome got = outcome(c.fast(), {c.score}, at::full({B, L}, 1.0, c.score.options()), at::kFloat);
      EXPECT_EQ(got.y.sizes(), (std::vector<int64_t>{B, L}));
      EXPECT_EQ(largest(got.y), 0) << c.text() << ": one chunk has all the mass, and no rival";
      EXPECT_LE(largest(got.grads[0]), 1e-6) << c.text();
    }
  }
}

// What no row sees may be anything, and gets no gradient at all.
TEST(Distillation, WhatIsNotVisibleHasNoPart) {
  CAIRN_NEED_TEST_DEVICE();
  Random random(5, 301);
  for (int i = 0; i < 10; ++i) {
    const DistillationCase c(random, 40);
    const at::Tensor cotangent = normal(random, {c.B, c.L});
    const Outcome clean = outcome(c.fast(), {c.score}, cotangent, at::kFloat);
    for (const double filler : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), 1e38}) {
      const DistillationCase dirty = c.filled(filler);
      const Outcome got = outcome(dirty.fast(), {dirty.score}, cotangent, at::kFloat);
      EXPECT_TRUE(got.y.equal(clean.y)) << c.text() << " " << filler;
      EXPECT_TRUE(got.grads[0].equal(clean.grads[0])) << c.text() << " " << filler;
      EXPECT_EQ(largest(got.grads[0].masked_fill(c.visible(), 0)), 0);
      const Outcome exact = outcome(dirty.reference(), {dirty.score}, cotangent, at::kDouble);
      EXPECT_TRUE(exact.y.isfinite().all().item<bool>() && exact.grads[0].isfinite().all().item<bool>()) << c.text() << " " << filler;
    }
  }
}

// Masses of 0 (log -inf): chunks that one head never reads, a head that reads nothing; scores of -inf where there is no mass. Not a number
// stays visible.
TEST(Distillation, MassesOfNothing) {
  CAIRN_NEED_TEST_DEVICE();
  Random random(6, 301);
  const double none = -std::numeric_limits<double>::infinity();
  for (const int64_t C : {3, 7, 40, 300}) {
    DistillationCase c(random, 2, 4 * C + 3, 5, C, 4, MassOrder::kByChunk);
    c.lse.select(2, 0).fill_(none);
    c.lse.select(2, 3).narrow(2, 0, 1).fill_(none);
    const at::Tensor cotangent = normal(random, {c.B, c.L});
    expect_close_fp32(c.fast(), c.reference(), {c.score}, cotangent, c.text());
    c.lse.narrow(3, 1, 1).fill_(none), c.score.narrow(2, 1, 1).fill_(none);
    const Outcome got = outcome(c.fast(), {c.score}, cotangent, at::kFloat);
    EXPECT_TRUE(got.y.isfinite().all().item<bool>() && got.grads[0].isfinite().all().item<bool>()) << c.text();
    EXPECT_GT(largest(got.y), 0);
    c.score.narrow(2, 0, 1).narrow(1, c.L - 1, 1).fill_(std::numeric_limits<double>::quiet_NaN());
    const at::Tensor y = outcome(c.fast(), {c.score}, cotangent, at::kFloat).y;
    EXPECT_TRUE(y.narrow(1, c.L - 1, 1).isnan().all().item<bool>() && y.narrow(1, 0, c.L - 1).isfinite().all().item<bool>()) << c.text();
  }
}

TEST(Distillation, TargetsGetNoGradient) {
  CAIRN_NEED_TEST_DEVICE();
  Random random(7, 301);
  const DistillationCase c(random, 2, 40, 3, 5, 8, MassOrder::kByChunk);
  for (const auto type : {at::kFloat, at::kDouble}) {
    const at::Tensor lse = c.lse.to(type).requires_grad_(true), score = c.score.to(type).detach().clone().requires_grad_(true);
    landmark_distillation(lse, score, c.S).sum().backward();
    EXPECT_FALSE(lse.grad().defined());
    EXPECT_GT(largest(score.grad()), 0);
    EXPECT_FALSE(landmark_distillation(lse, score.detach(), c.S).requires_grad());
  }
}

}  // namespace
}  // namespace cairn
