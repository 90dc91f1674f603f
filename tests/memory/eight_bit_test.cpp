// Memories that keep landmarks, or keys and values, as 8-bit rows: what they hand out is what the rows stand for, in every way of sharing.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "cairn/memory/chunk_memory.h"
#include "cairn/ops/quantize/rows.h"
#include "memory/small_memory.h"

namespace cairn {
namespace {

at::Tensor rounded(const at::Tensor& x, bool eight_bit) {
  if (!eight_bit) return x;
  const Int8Rows rows = quantize_rows(x);
  return dequantize_rows(rows.numbers, rows.scale, at::kFloat);
}
ChunkEncoding rounded(const ChunkEncoding& x, EightBit kept) {
  return {rounded(x.landmarks, kept.landmarks), rounded(x.k, kept.kv), rounded(x.v, kept.kv)};
}
bool same(const ChunkEncoding& a, const ChunkEncoding& b) {
  return at::equal(a.landmarks, b.landmarks) && at::equal(a.k, b.k) && at::equal(a.v, b.v);
}

class EightBitMemory : public testing::TestWithParam<int> {
 protected:
  const EightBit kept_{(GetParam() & 1) != 0, (GetParam() & 2) != 0};
  const at::ScalarType type_ = (GetParam() & 4) != 0 ? at::kBFloat16 : at::kFloat;
  const ModelConfig config_ = small_config();
  const int64_t element_ = type_ == at::kFloat ? 4 : 2;
  ChunkMemory memory(int64_t batch, int64_t first_chunk = 0) const {
    ChunkMemory made(config_, batch, first_chunk, /*largest_page=*/16);
    made.keep_as(kept_);
    return made;
  }
  // The same chunks in fp32 or bf16, on pages cut alike.
  ChunkMemory plain(const ChunkMemory& memory) const {
    ChunkMemory made(config_, memory.batch(), memory.first_chunk(), 16);
    for (int64_t at = memory.first_chunk(); at < memory.end_chunk();) {
      const int64_t n = memory.page_rest(at);
      const ChunkEncoding part = memory.copy(at, n);
      made.adopt(part.landmarks, part.k.unflatten(1, {n, config_.chunk}), part.v.unflatten(1, {n, config_.chunk}));
      at += n;
    }
    return made;
  }
};

TEST_P(EightBitMemory, HoldsWhatTheRowsStandFor) {
  ChunkMemory all = memory(2);
  std::vector<at::Tensor> landmarks, k, v;
  for (const int64_t n : {1, 7, 0, 30, 2, 16, 5}) {
    const ChunkEncoding part = random_chunks(config_, 2, n, type_);
    all.append(part);
    landmarks.push_back(part.landmarks), k.push_back(part.k), v.push_back(part.v);
  }
  const ChunkEncoding want = rounded({at::cat(landmarks, 1), at::cat(k, 1), at::cat(v, 1)}, kept_);
  EXPECT_TRUE(same(all.copy(0, 61), want));
  EXPECT_EQ(all.bytes(), ChunkMemory::bytes_for(config_, 2, 64, element_, kept_));
  if (kept_.landmarks && kept_.kv) {  // 24 landmark numbers... counted here by hand: 2 heads of 6, 2 x 4 x 2 rows of 8
    EXPECT_EQ(all.bytes(), 2 * 64 * ((12 + 2 * 2) + 2 * 4 * 2 * (8 + 2)));
  }
  int64_t seen = 0;
  all.for_landmarks([&](int64_t first, const at::Tensor& x) {
    EXPECT_EQ(first, seen);
    EXPECT_TRUE(at::equal(x, want.landmarks.narrow(1, first, x.size(1))));
    seen += x.size(1);
  });
  EXPECT_EQ(seen, 61);
  // A copy written back changes nothing; something else does, and is undone by the copy.
  const ChunkEncoding before = all.copy(10, 30);
  all.overwrite(10, before);
  EXPECT_TRUE(same(all.copy(0, 61), want));
  all.overwrite(10, random_chunks(config_, 2, 30, type_));
  EXPECT_FALSE(same(all.copy(10, 30), before));
  all.overwrite(10, before);
  EXPECT_TRUE(same(all.copy(0, 61), want));
  // Rows, forks, parts and truncation.
  const ChunkMemory row = all.row(1);
  EXPECT_TRUE(at::equal(row.copy(3, 40).k, want.k.narrow(0, 1, 1).narrow(1, 12, 160)));
  ChunkMemory fork = all.share();
  fork.append(random_chunks(config_, 2, 3, type_));
  EXPECT_TRUE(same(fork.copy(0, 61), want));
  EXPECT_EQ(all.chunks(), 61);
  ChunkMemory part = memory(2);
  part.adopt(all, 5, 20);
  EXPECT_TRUE(at::equal(part.copy(0, 20).v, want.v.narrow(1, 20, 80)));
  all.truncate(33);
  EXPECT_TRUE(at::equal(all.copy(0, 33).landmarks, want.landmarks.narrow(1, 0, 33)));
}

TEST_P(EightBitMemory, SelectsAndGathersAsAMemoryOfWhatTheRowsStandFor) {
  for (const int64_t rows : {1, 2, 3}) {
    for (const int64_t first_chunk : {int64_t{0}, int64_t{1} << 31}) {
      ChunkMemory own = memory(rows == 3 ? 1 : rows, first_chunk);
      for (const int64_t n : {20, 25, 1}) own.append(random_chunks(config_, own.batch(), n, type_));
      ChunkMemory want = plain(own);
      if (rows == 3) own = own.expand(3), want = want.expand(3);
      for (const int64_t length : {1, 30}) {
        Visibility visibility;
        visibility.chunk = 4;
        visibility.first_position = (first_chunk + 30) * 4;
        const at::Tensor rq = at::randn({rows, length, 2, 6});
        const Selection a = own.select(rq, 5, visibility), b = want.select(rq, 5, visibility);
        EXPECT_TRUE(at::equal(a.index, b.index)) << rows << ", " << length;
        EXPECT_TRUE(at::equal(a.score, b.score)) << rows << ", " << length;
        at::Tensor k, v, index, k_want, v_want, index_want;
        own.gather(a.index, &k, &v, &index);
        want.gather(a.index, &k_want, &v_want, &index_want);
        EXPECT_TRUE(at::equal(index, index_want));
        if (kept_.kv) {
          EXPECT_EQ(k.scalar_type(), type_);  // that in which they came
        }
        EXPECT_TRUE(at::equal(k, k_want.to(k.scalar_type())) && at::equal(v, v_want.to(k.scalar_type())));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kept, EightBitMemory, testing::Range(0, 8));

TEST(EightBitMemory, AdoptedTensorsAreRoundedAndLeftAlone) {
  const ModelConfig config = small_config();
  const ChunkEncoding given = random_chunks(config, 1, 9, at::kBFloat16);
  const at::Tensor before = given.k.clone(), k = given.k.unflatten(1, {9, 4}), v = given.v.unflatten(1, {9, 4});
  ChunkMemory memory(config, 1);
  memory.keep_as({true, true});
  memory.adopt(given.landmarks, k, v);
  EXPECT_TRUE(same(memory.copy(0, 9), rounded(given, {true, true})));
  memory.overwrite(2, random_chunks(config, 1, 3, at::kBFloat16));
  EXPECT_TRUE(at::equal(given.k, before));
}

}  // namespace
}  // namespace cairn
