// The selection kernels against plain scores and a plain choice from them.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "cairn/core/random.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/select/select.h"

namespace cairn {
namespace {

#define CAIRN_NEED_KERNELS()                                         \
  if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no GPU here"; \
  if (cuda_kernels() == nullptr || cuda_kernels()->select_chunks == nullptr) GTEST_SKIP() << "built without CUDA"

at::TensorOptions on_gpu(at::ScalarType type) { return at::TensorOptions(at::kCUDA).dtype(type); }

int64_t total(const std::vector<at::Tensor>& pages) {
  int64_t chunks = 0;
  for (const at::Tensor& page : pages) chunks += page.size(1);
  return chunks;
}

// By the kernels, which must want it.
Selection by_kernels(const at::Tensor& rq, const std::vector<at::Tensor>& pages, int64_t top_k, const Visibility& v,
                     const std::string& what) {
  EXPECT_TRUE(cuda_kernels()->select_supports(rq, pages, std::min(top_k, total(pages)), v)) << what;
  return select_chunks(rq, pages, top_k, v);
}

// Small whole numbers and a power of two as scale: every sum is exact, so the choice must be that of the plain path, ties included.
at::Tensor whole(at::IntArrayRef sizes, at::ScalarType type) { return at::randint(-2, 3, sizes, on_gpu(at::kFloat)).to(type); }

Visibility random_visibility(Random& random, int64_t C) {
  Visibility v;
  v.chunk = 1 + random.below(70);
  v.first_chunk = random.chance(0.3) ? random.below(5) : 0;
  if (random.chance(0.2)) v.first_chunk += int64_t{1} << 33;
  v.first_position = v.chunk * v.first_chunk + (random.chance(0.2) ? random.below(v.chunk) : random.below(v.chunk * (C + 2)));
  v.exclude_window = random.chance(0.4) ? 1 + random.below(2 * v.chunk) : 0;
  return v;
}

struct Shape {
  int64_t B, L, Q, width;
};

void expect_exact(Random& random, const Shape& s, at::ScalarType query, at::ScalarType landmark, int64_t top_k, int64_t most,
                  const std::string& what) {
  std::vector<at::Tensor> pages;
  const bool shared = s.B > 1 && random.chance(0.3);
  for (int64_t count = 1 + random.below(5); count > 0; --count) {
    const int64_t c = random.chance(0.2) ? random.below(3) : random.below(most);
    at::Tensor page = whole({shared ? 1 : s.B, c + 3, s.Q, s.width}, landmark).narrow(1, 1, c);
    pages.push_back(shared ? page.expand({s.B, c, s.Q, s.width}) : page);
  }
  const int64_t C = total(pages);
  if (C == 0) return;
  const Visibility v = random_visibility(random, C);
  const at::Tensor rq = whole({s.B, s.L, s.Q, s.width}, query);
  const Selection got = by_kernels(rq, pages, top_k, v, what);
  const Selection want = select_from_scores(landmark_scores(rq, at::cat(pages, 1)), top_k, v);
  ASSERT_EQ(got.index.sizes(), want.index.sizes()) << what;
  ASSERT_TRUE(got.index.equal(want.index)) << what << ": " << got.index.ne(want.index).sum().item<int64_t>() << " of " << got.index.numel()
                                           << " differ; C " << C << ", position " << v.first_position << ", chunk " << v.chunk
                                           << ", shared " << shared;
  ASSERT_TRUE(got.score.equal(want.score)) << what;
}

TEST(CudaSelect, FewRowsAreExact) {
  CAIRN_NEED_KERNELS();
  Random random(31, 1);
  for (int i = 0; i < 60; ++i) {
    const Shape s{1 + random.below(3), 1 + random.below(8), 1 + random.below(3), std::vector<int64_t>{16, 64, 256, 1024}[random.below(4)]};
    const int64_t top_k = random.chance(0.3) ? 1 + random.below(128) : 1 + random.below(12);
    for (const auto landmark : {at::kBFloat16, at::kFloat}) {
      const auto query = random.chance(0.5) ? at::kFloat : at::kBFloat16;
      expect_exact(random, s, query, landmark, top_k, i % 10 == 0 ? 20000 : 500,
                   fmt::format("case {}: B {} L {} Q {} Dr {} N {} {}", i, s.B, s.L, s.Q, s.width, top_k, at::toString(landmark)));
    }
  }
}

TEST(CudaSelect, ManyRowsAreExact) {
  CAIRN_NEED_KERNELS();
  Random random(31, 2);
  for (int i = 0; i < 60; ++i) {
    const Shape s{1 + random.below(3), 9 + random.below(i % 5 == 0 ? 1500 : 200), 1 + random.below(2),
                  std::vector<int64_t>{16, 64, 256, 1024}[random.below(4)]};
    const int64_t top_k = random.chance(0.4) ? 1 + random.below(128) : 1 + random.below(12);
    expect_exact(random, s, at::kBFloat16, at::kBFloat16, top_k, i % 5 == 0 ? 9000 / s.B : 500,
                 fmt::format("case {}: B {} L {} Q {} Dr {} N {}", i, s.B, s.L, s.Q, s.width, top_k));
  }
}

// A token sees more chunks the later it stands; rows of one launch from none to all.
TEST(CudaSelect, RowsFromNoVisibleChunkToAll) {
  CAIRN_NEED_KERNELS();
  for (const int64_t first : {int64_t{0}, (int64_t{1} << 40)}) {
    Visibility v;
    v.chunk = 4;
    v.first_position = first;
    v.first_chunk = first / 4;
    const at::Tensor rq = whole({2, 4096, 2, 64}, at::kBFloat16), landmarks = whole({2, 1024, 2, 64}, at::kBFloat16);
    for (const int64_t top_k : {int64_t{1}, int64_t{8}, int64_t{33}, int64_t{128}}) {
      const Selection got = by_kernels(rq, {landmarks}, top_k, v, "rows"),
                      want = select_from_scores(landmark_scores(rq, landmarks), top_k, v);
      EXPECT_TRUE(got.index.equal(want.index)) << top_k;
      EXPECT_TRUE(got.score.equal(want.score)) << top_k;
      EXPECT_TRUE(got.index.select(1, 3).eq(-1).all().item<bool>());
    }
  }
}

// More pages than a launch takes.
TEST(CudaSelect, ManyPages) {
  CAIRN_NEED_KERNELS();
  Random random(31, 3);
  std::vector<at::Tensor> pages;
  for (int64_t i = 0; i < 130; ++i) pages.push_back(whole({1, random.below(40), 1, 64}, at::kBFloat16));
  const int64_t C = total(pages);
  Visibility v;
  v.chunk = 3;
  v.first_position = 3 * C - 40;
  for (const int64_t L : {1, 5, 300}) {
    const at::Tensor rq = whole({1, L, 1, 64}, at::kBFloat16);
    const Selection got = by_kernels(rq, pages, 9, v, "pages"), want = select_from_scores(landmark_scores(rq, at::cat(pages, 1)), 9, v);
    EXPECT_TRUE(got.index.equal(want.index)) << L;
    EXPECT_TRUE(got.score.equal(want.score)) << L;
  }
}

// Worst cases of a running list: scores that rise from chunk to chunk, that fall, and that are all the same.
TEST(CudaSelect, RisingFallingAndEqualScores) {
  CAIRN_NEED_KERNELS();
  const int64_t C = 6000, width = 64;
  Visibility v;
  v.chunk = 1;
  v.first_position = C;
  for (const int64_t L : {1, 200}) {
    for (const int sign : {1, 0, -1}) {
      at::Tensor landmarks = at::zeros({1, C, 1, width}, on_gpu(at::kFloat));
      // Two bf16 columns hold the number: 96 a + b.
      const at::Tensor number = at::arange(C, on_gpu(at::kFloat)).view({1, C, 1}) * sign, high = (number / 96).floor();
      landmarks.select(3, 0).copy_(high);
      landmarks.select(3, 1).copy_(number - high * 96);
      landmarks = landmarks.to(at::kBFloat16);
      at::Tensor rq = at::zeros({1, L, 1, width}, on_gpu(at::kBFloat16));
      rq.select(3, 0).fill_(96);
      rq.select(3, 1).fill_(1);
      for (const int64_t top_k : {int64_t{3}, int64_t{32}, int64_t{100}}) {
        const Selection got = by_kernels(rq, {landmarks}, top_k, v, "ramp"),
                        want = select_from_scores(landmark_scores(rq, landmarks), top_k, v);
        EXPECT_TRUE(got.index.equal(want.index)) << L << " " << sign << " " << top_k;
        EXPECT_TRUE(got.score.equal(want.score)) << L << " " << sign << " " << top_k;
      }
    }
  }
}

// Real numbers: (1) the exact top-N of the scores that the kernels compute, seen through N = C; (2) each chosen chunk's score in fp32 at
// most twice the naive bf16 error below the N-th best.
TEST(CudaSelect, RealScores) {
  CAIRN_NEED_KERNELS();
  Random random(31, 4);
  for (int i = 0; i < 24; ++i) {
    const int64_t L = i % 2 == 0 ? 1 + random.below(8) : 9 + random.below(400), C = 128, Q = 1 + random.below(2);
    const int64_t width = 8 * (1 + random.below(100)), n = 1 + random.below(40);
    const at::Tensor rq = at::randn({2, L, Q, width}, on_gpu(at::kBFloat16)),
                     landmarks = at::randn({2, C, Q, width}, on_gpu(at::kBFloat16));
    Visibility v;
    v.chunk = 1;
    v.first_position = random.below(2 * C);
    const std::string what = fmt::format("case {}: L {} Dr {} N {}", i, L, width, n);
    const Selection all = by_kernels(rq, {landmarks}, C, v, what), got = by_kernels(rq, {landmarks}, n, v, what);
    // Scores by chunk number; what is not visible stays -inf, which is not visible either.
    at::Tensor score = at::full({2, L, Q, C + 1}, -std::numeric_limits<double>::infinity(), on_gpu(at::kFloat));
    score.scatter_(3, all.index.add(C + 1).remainder(C + 1), all.score);
    score = score.narrow(3, 0, C);
    const Selection again = select_from_scores(score, n, v);
    EXPECT_TRUE(got.index.equal(again.index)) << what;
    EXPECT_TRUE(got.score.equal(again.score)) << what;

    const at::Tensor exact = landmark_scores(rq.to(at::kDouble), landmarks.to(at::kDouble));
    const at::Tensor naive = at::matmul(rq.transpose(1, 2), landmarks.permute({0, 2, 3, 1})).transpose(1, 2).to(at::kDouble) /
                             std::sqrt(static_cast<double>(width));
    const double error = (naive - exact).abs().max().item<double>();
    const Selection best = select_from_scores(exact, n, v);
    const at::Tensor used = got.index.ge(0);
    EXPECT_TRUE(used.equal(best.index.ge(0))) << what;
    const double infinity = std::numeric_limits<double>::infinity();
    const at::Tensor bar = exact.gather(3, best.index.clamp_min(0)).masked_fill(used.logical_not(), infinity).amin(3, true);
    const at::Tensor chosen = exact.gather(3, got.index.clamp_min(0));
    EXPECT_LE((bar - chosen).masked_fill(used.logical_not(), -infinity).max().item<double>(), 2 * error) << what;
    EXPECT_LE((chosen - got.score).masked_fill(used.logical_not(), 0).abs().max().item<double>(), 2 * error + 1e-6) << what;
  }
}

TEST(CudaSelect, RunsAreEqualToTheLastBit) {
  CAIRN_NEED_KERNELS();
  Visibility v;
  v.first_position = 64 * 30000;
  for (const int64_t L : {1, 6, 700}) {
    const at::Tensor rq = at::randn({1, L, 1, 512}, on_gpu(at::kBFloat16)),
                     landmarks = at::randn({1, 30000, 1, 512}, on_gpu(at::kBFloat16));
    const Selection first = by_kernels(rq, {landmarks}, 8, v, "repeat");
    for (int i = 0; i < 5; ++i) {
      const Selection again = by_kernels(rq, {landmarks}, 8, v, "repeat");
      EXPECT_TRUE(first.index.equal(again.index) && first.score.equal(again.score)) << L;
    }
  }
}

TEST(CudaSelect, NothingToChooseFrom) {
  CAIRN_NEED_KERNELS();
  const at::Tensor rq = at::randn({2, 5, 1, 64}, on_gpu(at::kBFloat16));
  Visibility v;
  EXPECT_EQ(select_chunks(rq, at::empty({2, 0, 1, 64}, rq.options()), 8, v).index.sizes(), at::IntArrayRef({2, 5, 1, 0}));
  EXPECT_EQ(select_chunks(rq.narrow(1, 0, 0), rq, 3, v).index.sizes(), at::IntArrayRef({2, 0, 1, 3}));
  v.first_position = -1;
  v.chunk = 1;
  const Selection none = select_chunks(rq.narrow(1, 0, 1), rq, 3, v);  // the row before the text
  EXPECT_TRUE(none.index.eq(-1).all().item<bool>() && none.score.eq(0).all().item<bool>());
}

// No number is lost or invented where scores are infinite or not numbers at all.
TEST(CudaSelect, InfiniteAndUndefinedScores) {
  CAIRN_NEED_KERNELS();
  Visibility v;
  v.chunk = 1;
  v.first_position = 1000;
  for (const int64_t L : {1, 40}) {
    at::Tensor landmarks = at::randn({1, 300, 1, 64}, on_gpu(at::kBFloat16));
    landmarks.narrow(1, 0, 100).fill_(std::numeric_limits<double>::quiet_NaN());
    landmarks.narrow(1, 100, 100).fill_(-std::numeric_limits<double>::infinity());
    const at::Tensor rq = at::full({1, L, 1, 64}, 1, on_gpu(at::kBFloat16));
    const Selection got = by_kernels(rq, {landmarks}, 128, v, "infinite");
    EXPECT_TRUE(got.index.ge(0).all().item<bool>());
    EXPECT_TRUE(got.index.narrow(3, 0, 100).equal(at::linspace(299, 200, 100, on_gpu(at::kLong)).expand({1, L, 1, 100})));
    EXPECT_TRUE(got.index.narrow(3, 1, 127).lt(got.index.narrow(3, 0, 127)).all().item<bool>());
  }
}

}  // namespace
}  // namespace cairn
