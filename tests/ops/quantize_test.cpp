// 8-bit rows: error bound, exactness, idempotence; selection and gathering through them against what the dequantised rows give.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>

#include "cairn/ops/gather/gather.h"
#include "cairn/ops/hsa/pages.h"
#include "cairn/ops/quantize/rows.h"
#include "cairn/ops/select/few_rows.h"
#include "cairn/ops/select/int8.h"
#include "ops/compare.h"

namespace cairn {
namespace {

using testing::test_device;

at::TensorOptions here(at::ScalarType type) { return at::TensorOptions(test_device()).dtype(type); }

TEST(Quantize, ErrorsAreAtMostHalfAStep) {
  Random random(1, 71);
  for (int i = 0; i < 40; ++i) {
    const auto type = random.chance(.5) ? at::kFloat : at::kBFloat16;
    const double size = std::pow(10.0, random.uniform() * 60 - 30);
    const at::Tensor x = (testing::normal(random, {1 + random.below(20), 1 + random.below(7), 1 + random.below(130)}) * size).to(type);
    const Int8Rows rows = quantize_rows(x);
    ASSERT_EQ(rows.numbers.sizes(), x.sizes());
    ASSERT_EQ(rows.scale.sizes(), x.sizes().slice(0, 2));
    const at::Tensor exact = dequantize_rows(rows.numbers, rows.scale, at::kFloat);
    // The same product in fp64: nothing was rounded.
    EXPECT_TRUE(at::equal(exact.to(at::kDouble), rows.numbers.to(at::kDouble) * rows.scale.to(at::kDouble).unsqueeze(-1)));
    const at::Tensor bound = rows.scale.to(at::kDouble).unsqueeze(-1) / 2;
    EXPECT_TRUE((exact.to(at::kDouble) - x.to(at::kDouble)).abs().le(bound).all().item<bool>()) << size;
    EXPECT_EQ(rows.numbers.abs().amax(-1).amin().item<int64_t>(), 127);  // all of the range is used
    const Int8Rows again = quantize_rows(exact);
    EXPECT_TRUE(at::equal(again.numbers, rows.numbers) && at::equal(again.scale, rows.scale));
    EXPECT_TRUE(at::equal(dequantize_rows(rows.numbers, rows.scale, at::kBFloat16), exact.to(at::kBFloat16)));
    // The same rows on every device.
    const Int8Rows elsewhere = quantize_rows(x.cpu());
    EXPECT_TRUE(at::equal(elsewhere.numbers, rows.numbers.cpu()) && at::equal(elsewhere.scale, rows.scale.cpu()));
  }
}

TEST(Quantize, TiesGoToEven) {
  at::Tensor x = at::zeros({1, 6}, here(at::kFloat));
  const float values[] = {127, .5F, 1.5F, 2.5F, -.5F, -3.5F};
  for (int i = 0; i < 6; ++i) x[0][i] = values[i];
  const int64_t want[] = {127, 0, 2, 2, 0, -4};
  const Int8Rows rows = quantize_rows(x);
  EXPECT_EQ(rows.scale.item<double>(), 1);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(rows.numbers[0][i].item<int64_t>(), want[i]) << i;
}

TEST(Quantize, ZerosSmallAndNotFiniteNumbers) {
  at::Tensor x = at::randn({5, 8}, here(at::kFloat));
  x[0] = 0;
  x[1] = x[1] * 1e-42;
  x[2][3] = std::numeric_limits<float>::infinity();
  x[3][7] = std::numeric_limits<float>::quiet_NaN();
  const Int8Rows rows = quantize_rows(x);
  const at::Tensor back = dequantize_rows(rows.numbers, rows.scale, at::kFloat);
  EXPECT_TRUE(at::equal(back[0], x[0]));
  EXPECT_LE((back[1] - x[1]).abs().max().item<double>(), 0x1p-127);
  EXPECT_TRUE(back[2].isnan().all().item<bool>() && back[3].isnan().all().item<bool>());
  EXPECT_TRUE(rows.numbers[2].eq(0).all().item<bool>() && rows.numbers[3].eq(0).all().item<bool>());
  EXPECT_FALSE(back[4].isnan().any().item<bool>());
}

// Random pages, some empty.
Int8Landmarks random_landmarks(Random& random, int64_t B, int64_t Q, int64_t width, std::vector<at::Tensor>* dequantized) {
  Int8Landmarks made;
  const bool shared = B > 1 && random.chance(.4);
  for (int64_t count = 1 + random.below(4); count > 0; --count) {
    const int64_t c = count == 1 ? 3 + random.below(60) : random.below(60);
    const Int8Rows rows = quantize_rows(at::randn({shared ? 1 : B, c + 2, Q, width}, here(at::kFloat)));
    made.numbers.push_back(rows.numbers.narrow(1, 0, c).expand({B, c, Q, width}));  // unused slots behind
    made.scale.push_back(rows.scale.narrow(1, 0, c).expand({B, c, Q}));
    dequantized->push_back(dequantize_rows(rows.numbers, rows.scale, at::kFloat).narrow(1, 0, c).expand({B, c, Q, width}));
  }
  return made;
}

TEST(Quantize, SelectionIsThatOfTheDequantizedLandmarks) {
  Random random(2, 72);
  for (int i = 0; i < 60; ++i) {
    const int64_t B = 1 + random.below(3), L = i % 3 == 0 ? 40 : 1 + random.below(4), Q = 1 + random.below(3), width = 1 + random.below(80);
    std::vector<at::Tensor> plain;
    const Int8Landmarks landmarks = random_landmarks(random, B, Q, width, &plain);
    Visibility v;
    v.chunk = 1 + random.below(20);
    v.first_chunk = random.chance(.3) ? int64_t{1} << 34 : 0;
    v.first_position = v.chunk * (v.first_chunk + random.below(landmarks.chunks() + 3));
    v.exclude_window = random.chance(.3) ? 1 + random.below(30) : 0;
    const int64_t top_k = 1 + random.below(12);
    const at::Tensor rq = at::randn({B, L, Q, width}, here(at::kFloat));
    const std::string what = fmt::format("case {}: B {} L {} Q {} width {} N {}", i, B, L, Q, width, top_k);
    const Selection want = select_chunks(rq, plain, top_k, v), got = select_chunks(rq, landmarks, top_k, v);
    // On a CPU bit for bit; fp32 queries on a GPU are scored among dequantised landmarks, too.
    EXPECT_TRUE(at::equal(got.index, want.index)) << what;
    EXPECT_TRUE(at::equal(got.score, want.score)) << what;
    // In parts: each page by itself, then merged. Products of other sizes may round elsewhere.
    const Selection parts = select_dequantized(rq, landmarks, top_k, v, 1);
    EXPECT_LE(testing::worst(parts.score, want.score), 1e-5) << what;
    EXPECT_LE(parts.index.ne(want.index).sum().item<int64_t>(), 2) << what;
  }
}

TEST(Quantize, TiesOfSelectionsInPartsFallToTheMoreRecentChunk) {
  Random random(3, 73);
  for (int i = 0; i < 20; ++i) {
    const int64_t Q = 1 + random.below(2), width = 16, L = i % 2 == 0 ? 50 : 3;
    Int8Landmarks landmarks;
    std::vector<at::Tensor> plain;
    for (int p = 0; p < 3; ++p) {  // whole numbers and scales that are powers of two: all sums are exact
      const int64_t c = 5 + random.below(30);
      landmarks.numbers.push_back(at::randint(-1, 2, {1, c, Q, width}, here(at::kFloat)).to(at::kChar));
      landmarks.scale.push_back(at::randint(0, 2, {1, c, Q}, here(at::kFloat)).add(1).to(at::kBFloat16));
      plain.push_back(dequantize_rows(landmarks.numbers.back(), landmarks.scale.back(), at::kFloat));
    }
    const at::Tensor rq = at::randint(-2, 3, {1, L, Q, width}, here(at::kFloat));
    Visibility v;
    v.chunk = 1;
    v.first_position = random.below(landmarks.chunks() + 4);
    const Selection want = select_from_scores(landmark_scores(rq, at::cat(plain, 1)), 6, v);
    for (const Selection& got : {select_chunks(rq, landmarks, 6, v), select_dequantized(rq, landmarks, 6, v, 1)}) {
      EXPECT_TRUE(at::equal(got.index, want.index)) << i;
      EXPECT_TRUE(at::equal(got.score, want.score)) << i;
    }
  }
}

TEST(Quantize, GatheredChunksAreTheDequantizedOnes) {
  Random random(4, 74);
  for (int i = 0; i < 30; ++i) {
    const int64_t B = 1 + random.below(3), S = 1 + random.below(20), G = 1 + random.below(2), D = 8 * (1 + random.below(8));
    ChunkPages pages, plain;
    pages.first_chunk = plain.first_chunk = random.chance(.5) ? 0 : int64_t{1} << 35;
    pages.type = random.chance(.5) ? at::kFloat : at::kBFloat16;
    int64_t chunks = 0;
    for (int64_t count = 1 + random.below(4); count > 0; --count) {
      const int64_t c = 1 + random.below(9);
      const Int8Rows k = quantize_rows(at::randn({B, c, S, G, D}, here(at::kFloat))),
                     v = quantize_rows(at::randn({B, c, S, G, D}, here(at::kFloat)));
      pages.k.push_back(k.numbers), pages.v.push_back(v.numbers), pages.k_scale.push_back(k.scale), pages.v_scale.push_back(v.scale);
      plain.k.push_back(dequantize_rows(k.numbers, k.scale, pages.type)),
          plain.v.push_back(dequantize_rows(v.numbers, v.scale, pages.type));
      chunks += c;
    }
    const at::Tensor index = at::randint(-1, chunks, {B, 1 + random.below(3), 1, 4}, here(at::kLong));
    const at::Tensor absolute = index + pages.first_chunk * index.ge(0);
    const GatheredChunks got = gather_chunks(pages, absolute), want = gather_chunks_reference(plain, absolute);
    EXPECT_TRUE(at::equal(got.k, want.k) && at::equal(got.v, want.v) && at::equal(got.index, want.index)) << i;
    const GatheredChunks reference = gather_chunks_reference(pages, absolute);
    EXPECT_TRUE(at::equal(reference.k, want.k) && at::equal(reference.v, want.v)) << i;
  }
}

}  // namespace
}  // namespace cairn
