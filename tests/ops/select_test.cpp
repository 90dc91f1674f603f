#include "cairn/ops/select/select.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cairn/core/random.h"
#include "cairn/ops/select/noise.h"

namespace cairn {
namespace {

bool sees(int64_t t, int64_t i, const Visibility& v) {
  const int64_t position = v.first_position + t, last = (v.first_chunk + i + 1) * v.chunk - 1;
  return position > last && (v.exclude_window == 0 || position - v.exclude_window + 1 > last);
}

// One row by the words of the contract: the N visible chunks with the highest score, ties to the higher number, listed downwards.
std::vector<int64_t> pick(const float* score, int64_t C, int64_t n, int64_t t, const Visibility& v) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < C; ++i) {
    if (sees(t, i, v)) order.push_back(i);
  }
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return score[a] != score[b] ? score[a] > score[b] : a > b; });
  order.resize(static_cast<size_t>(std::min<int64_t>(n, static_cast<int64_t>(order.size()))));
  std::sort(order.rbegin(), order.rend());
  order.resize(static_cast<size_t>(n), -1);
  return order;
}

void expect_selection(const Selection& got, const at::Tensor& score, int64_t top_k, const Visibility& v, const std::string& what) {
  const int64_t B = score.size(0), L = score.size(1), Q = score.size(2), C = score.size(3), n = std::min(top_k, C);
  ASSERT_EQ(got.index.sizes(), at::IntArrayRef({B, L, Q, n})) << what;
  ASSERT_EQ(got.score.scalar_type(), at::kFloat);
  const at::Tensor s = score.to(at::kFloat).contiguous(), index = got.index.contiguous(), found = got.score.contiguous();
  for (int64_t row = 0; row < B * L * Q; ++row) {
    const float* p = s.const_data_ptr<float>() + row * C;
    const auto want = pick(p, C, n, row / Q % L, v);
    for (int64_t k = 0; k < n; ++k) {
      const int64_t i = index.const_data_ptr<int64_t>()[row * n + k];
      ASSERT_EQ(i, want[static_cast<size_t>(k)]) << what << " row " << row << " slot " << k;
      ASSERT_EQ(found.const_data_ptr<float>()[row * n + k], i < 0 ? 0.0f : p[i]) << what;
    }
  }
}

Visibility random_visibility(Random& random) {
  Visibility v;
  v.chunk = 1 + random.below(9);
  v.first_position = random.below(60);
  v.first_chunk = random.chance(0.3) ? random.below(5) : 0;
  v.exclude_window = random.chance(0.4) ? 1 + random.below(30) : 0;
  return v;
}

// Scores of few distinct values, so that ties are everywhere; zeros of both signs are one score.
at::Tensor tied_scores(at::IntArrayRef sizes) {
  const at::Tensor sign = at::randint(0, 2, sizes, at::kFloat) * 2 - 1;
  return at::randint(0, 3, sizes, at::kFloat) * sign;
}

TEST(Select, FromScoresFollowsTheContract) {
  Random random(3, 1);
  for (int i = 0; i < 60; ++i) {
    const Visibility v = random_visibility(random);
    const int64_t C = random.below(25), top_k = random.below(12);
    at::Tensor score = tied_scores({1 + random.below(2), random.below(40), 1 + random.below(3), C});
    if (random.chance(0.3)) score = score.masked_fill(score.eq(2), -std::numeric_limits<float>::infinity());
    expect_selection(select_from_scores(score, top_k, v), score, top_k, v, fmt::format("case {}", i));
    expect_selection(select_from_scores(score.to(at::kDouble), top_k, v), score, top_k, v, fmt::format("case {} fp64", i));
  }
}

TEST(Select, VisibleChunksAreThoseOfTheDefinition) {
  Random random(3, 2);
  for (int i = 0; i < 40; ++i) {
    const Visibility v = random_visibility(random);
    const int64_t L = random.below(50), C = random.below(20);
    const at::Tensor visible = visible_chunks(L, C, v, at::kCPU);
    for (int64_t t = 0; t < L; ++t) {
      for (int64_t c = 0; c < C; ++c) ASSERT_EQ(visible[t][c].item<bool>(), sees(t, c, v)) << t << " " << c;
    }
  }
}

TEST(Select, PositionsBeyondTwoToThe31) {
  Visibility v;
  v.chunk = 64;
  v.first_position = (int64_t{1} << 40) + 5;
  v.first_chunk = (int64_t{1} << 34) - 2;  // the last chunk that row 0 sees is number 1
  const at::Tensor visible = visible_chunks(1, 4, v, at::kCPU);
  EXPECT_EQ(visible.sum().item<int64_t>(), 2);
  const Selection s = select_from_scores(at::zeros({1, 1, 1, 4}), 1, v);
  EXPECT_EQ(s.index.item<int64_t>(), 1);
  // Few rows and many.
  for (const int64_t rows : {1, 40}) {
    const at::Tensor index = select_chunks(at::zeros({1, rows, 1, 4}), at::zeros({1, 4, 1, 4}), 1, v).index;
    EXPECT_EQ(index[0][0].item<int64_t>(), 1) << rows;
  }
}

TEST(Select, ChunksInPagesAgreeWithAllScoresAtOnce) {
  Random random(3, 3);
  for (int i = 0; i < 12; ++i) {
    Visibility v = random_visibility(random);
    const int64_t B = 1 + random.below(2), L = 1 + random.below(20), Q = 1 + random.below(2), Dr = 4, top_k = 1 + random.below(10);
    std::vector<at::Tensor> pages;
    int64_t C = 0;
    for (int64_t p = random.below(4); p >= 0; --p) {
      const int64_t c = random.below(12);
      // Small whole numbers: products are exact, ties common.
      pages.push_back(at::randint(-1, 2, {B, c, Q, Dr}, at::kFloat));
      C += c;
    }
    const at::Tensor rq = at::randint(-1, 2, {B, L, Q, Dr}, at::kFloat), all = at::cat(pages, 1);
    const at::Tensor score = landmark_scores(rq, all);
    expect_selection(select_chunks(rq, pages, top_k, v), score, top_k, v, fmt::format("pages, case {}", i));
    expect_selection(select_chunks(rq, all, top_k, v), score, top_k, v, fmt::format("whole, case {}", i));
    expect_selection(select_chunks(rq, all.to(at::kBFloat16), top_k, v), score, top_k, v, fmt::format("bf16, case {}", i));
    // Few rows and many take different ways: each row alone.
    for (int64_t t = 0; t < L; ++t) {
      Visibility at_t = v;
      at_t.first_position += t;
      expect_selection(select_chunks(rq.narrow(1, t, 1), pages, top_k, at_t), score.narrow(1, t, 1), top_k, at_t,
                       fmt::format("row {}, case {}", t, i));
    }
    // One memory for all rows.
    const at::Tensor one = all.narrow(0, 0, 1).expand({B, C, Q, Dr});
    expect_selection(select_chunks(rq, one, top_k, v), landmark_scores(rq, one.contiguous()), top_k, v, fmt::format("shared, case {}", i));
  }
}

// Many blocks: ties between chunks of different blocks, and blocks that no row sees.
TEST(Select, ChunksInBlocksKeepTheTieRule) {
  Visibility v;
  v.chunk = 4;
  const int64_t C = 40000, L = 6;
  v.first_position = 4 * 36000;
  const at::Tensor landmarks = at::randint(-1, 2, {1, C, 1, 4}, at::kFloat), rq = at::randint(-1, 2, {1, L, 1, 4}, at::kFloat);
  expect_selection(select_chunks(rq, landmarks, 5, v), landmark_scores(rq, landmarks), 5, v, "blocks");
  v.first_position = 3;
  EXPECT_TRUE(select_chunks(rq.narrow(1, 0, 1), landmarks, 5, v).index.eq(-1).all().item<bool>());
}

TEST(Select, LandmarkScoresAndTheirGradient) {
  const at::Tensor rq = at::randn({2, 5, 2, 6}, at::kDouble).requires_grad_(true),
                   lmk = at::randn({2, 4, 2, 6}, at::kDouble).requires_grad_(true);
  const at::Tensor want = at::einsum("blqr,bcqr->blqc", {rq, lmk}) / std::sqrt(6.0), got = landmark_scores(rq, lmk),
                   g = at::randn({2, 5, 2, 4}, at::kDouble);
  EXPECT_TRUE(got.allclose(want));
  const auto a = torch::autograd::grad({got}, {rq, lmk}, {g}), b = torch::autograd::grad({want}, {rq, lmk}, {g});
  EXPECT_TRUE(a[0].allclose(b[0]) && a[1].allclose(b[1]));
  EXPECT_EQ(landmark_scores(rq.to(at::kBFloat16), lmk.to(at::kBFloat16)).scalar_type(), at::kFloat);
}

TEST(Select, NoiseIsAFunctionOfItsCounter) {
  const int threads = at::get_num_threads();
  const at::Tensor all = gumbel_noise(77, 3, 40, 2, 30, 0, 0, at::kCPU);
  at::set_num_threads(1);
  const at::Tensor one = gumbel_noise(77, 3, 40, 2, 30, 0, 0, at::kCPU);
  at::set_num_threads(threads);
  EXPECT_TRUE(all.equal(one));
  // A later segment and later chunks get the numbers of their places.
  EXPECT_TRUE(gumbel_noise(77, 3, 11, 2, 7, 13, 5, at::kCPU).equal(all.narrow(1, 13, 11).narrow(3, 5, 7)));
  EXPECT_TRUE(gumbel_noise(77, 2, 40, 2, 30, 0, 0, at::kCPU, 1).equal(all.narrow(0, 1, 2)));
  EXPECT_FALSE(gumbel_noise(78, 3, 40, 2, 30, 0, 0, at::kCPU).equal(all));
  // Gumbel: mean 0.5772, variance pi^2/6; neighbours along every axis uncorrelated.
  const at::Tensor x = gumbel_noise(5, 4, 128, 2, 128, 0, 0, at::kCPU).to(at::kDouble);
  EXPECT_NEAR(x.mean().item<double>(), 0.5772, 0.015);
  EXPECT_NEAR(x.var().item<double>(), 1.6449, 0.04);
  const at::Tensor z = x - x.mean();
  for (int64_t d = 0; d < 4; ++d) {
    const int64_t n = x.size(d);
    EXPECT_NEAR((z.narrow(d, 0, n - 1) * z.narrow(d, 1, n - 1)).mean().item<double>() / 1.6449, 0, 0.02) << d;
  }
}

TEST(Select, NoiseMovesTheChoiceOnly) {
  Visibility v;
  v.chunk = 1;
  v.first_position = 100;
  const at::Tensor score = at::zeros({1, 4000, 1, 4});
  score.select(3, 2).fill_(std::log(3.0));  // Gumbel-max: chosen with probability 3 / 6
  const Selection s = select_from_scores(score, 1, v, 1234);
  EXPECT_NEAR(s.index.eq(2).to(at::kDouble).mean().item<double>(), 0.5, 0.03);
  EXPECT_TRUE(s.score.equal(score.gather(-1, s.index)));
  EXPECT_TRUE(select_from_scores(score, 1, v, 1234).index.equal(s.index));
  EXPECT_FALSE(select_from_scores(score, 1, v, 1235).index.equal(s.index));
}

TEST(ChunkWeights, FollowTheirFormulas) {
  Random random(3, 4);
  for (int i = 0; i < 20; ++i) {
    const int64_t N = 1 + random.below(6), rows = 7;
    const at::Tensor s = (at::randn({rows, N}, at::kDouble) * 3).requires_grad_(true);
    const at::Tensor used = at::randint(0, 2, {rows, N}).to(at::kBool), g = at::randn({rows, N}, at::kDouble);
    const at::Tensor soft = softmax_weights(s, used), stick = stick_breaking_weights(s, used);
    const auto soft_grad = torch::autograd::grad({soft}, {s}, {g})[0], stick_grad = torch::autograd::grad({stick}, {s}, {g})[0];
    for (int64_t r = 0; r < rows; ++r) {
      const auto x = [&](int64_t k) { return s[r][k].item<double>(); };
      const auto is_used = [&](int64_t k) { return used[r][k].item<bool>(); };
      const auto dw = [&](int64_t k) { return g[r][k].item<double>(); };
      double total = 0, left = 1;
      std::vector<double> w(static_cast<size_t>(N)), b(static_cast<size_t>(N));
      for (int64_t k = 0; k < N; ++k) total += is_used(k) ? std::exp(x(k)) : 0;
      double mean = 0;
      for (int64_t k = 0; k < N; ++k) {
        const auto at = static_cast<size_t>(k);
        const double sigma = 1 / (1 + std::exp(-x(k)));
        w[at] = is_used(k) ? std::exp(x(k)) / total : 0;
        b[at] = is_used(k) ? sigma * left : 0;
        if (is_used(k)) left *= 1 - sigma;
        mean += w[at] * dw(k);
      }
      for (int64_t k = 0; k < N; ++k) {  // the gradients of docs/algorithm.md section 2
        const auto at = static_cast<size_t>(k);
        EXPECT_NEAR(soft[r][k].item<double>(), w[at], 1e-12);
        EXPECT_NEAR(stick[r][k].item<double>(), b[at], 1e-12);
        EXPECT_NEAR(soft_grad[r][k].item<double>(), w[at] * (dw(k) - mean), 1e-12);
        double after = 0;
        for (int64_t j = k; j < N; ++j) after += b[static_cast<size_t>(j)] * dw(j);
        const double sigma = 1 / (1 + std::exp(-x(k)));
        EXPECT_NEAR(stick_grad[r][k].item<double>(), is_used(k) ? b[at] * dw(k) - sigma * after : 0, 1e-12);
      }
    }
  }
}

TEST(ChunkWeights, UnusedSlotsAreInert) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const auto weights : {softmax_weights, stick_breaking_weights}) {
    const at::Tensor s = at::full({2, 3}, infinity, at::kFloat).requires_grad_(true), none = at::full({2, 3}, false, at::kBool);
    const at::Tensor w = weights(s, none);
    EXPECT_EQ(w.abs().sum().item<double>(), 0);
    EXPECT_EQ(torch::autograd::grad({w.sum()}, {s})[0].abs().sum().item<double>(), 0);
    const at::Tensor empty = weights(at::zeros({4, 0}), at::full({4, 0}, true, at::kBool));
    EXPECT_EQ(empty.numel(), 0);
    EXPECT_EQ(weights(at::zeros({2, 3}, at::kBFloat16), none).scalar_type(), at::kFloat);
  }
  // Far scores neither overflow nor lose the one chunk that counts.
  const at::Tensor s = at::full({1, 2}, 1000.0), used = at::full({1, 2}, true, at::kBool);
  EXPECT_NEAR(stick_breaking_weights(s, used)[0][0].item<double>(), 1, 1e-6);
  EXPECT_NEAR(softmax_weights(s, used)[0][0].item<double>(), 0.5, 1e-6);
}

}  // namespace
}  // namespace cairn
