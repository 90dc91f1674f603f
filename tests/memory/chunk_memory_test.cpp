// Pages against one flat tensor: growing, selecting over pages, gathering, overwriting, sharing.
#include "cairn/memory/chunk_memory.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/where.h>
#include <gtest/gtest.h>

#include <vector>

#include "memory/small_memory.h"

namespace cairn {
namespace {

ChunkEncoding joined(const std::vector<ChunkEncoding>& parts) {
  std::vector<at::Tensor> landmarks, k, v;
  for (const ChunkEncoding& part : parts) landmarks.push_back(part.landmarks), k.push_back(part.k), v.push_back(part.v);
  return {at::cat(landmarks, 1), at::cat(k, 1), at::cat(v, 1)};
}

bool same(const ChunkEncoding& a, const ChunkEncoding& b) {
  return at::equal(a.landmarks, b.landmarks) && at::equal(a.k, b.k) && at::equal(a.v, b.v);
}

TEST(ChunkMemory, HoldsWhatWasAppendedInAnyPieces) {
  const ModelConfig config = small_config();
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    ChunkMemory memory(config, 2, /*first_chunk=*/0, /*largest_page=*/16);
    std::vector<ChunkEncoding> parts;
    for (const int64_t n : {1, 7, 0, 30, 2, 16, 5}) {
      parts.push_back(random_chunks(config, 2, n, dtype));
      memory.append(parts.back());
    }
    const ChunkEncoding all = joined(parts);
    ASSERT_EQ(memory.chunks(), 61);
    EXPECT_EQ(memory.pages(), 4);
    EXPECT_TRUE(same(memory.copy(0, 61), all));
    const ChunkEncoding middle = memory.copy(14, 21);
    EXPECT_TRUE(at::equal(middle.landmarks, all.landmarks.narrow(1, 14, 21)));
    EXPECT_TRUE(at::equal(middle.v, all.v.narrow(1, 14 * 4, 21 * 4)));
    EXPECT_EQ(middle.k.scalar_type(), dtype);
    EXPECT_EQ(memory.bytes(), ChunkMemory::bytes_for(config, 2, 64, dtype == at::kFloat ? 4 : 2));
  }
}

TEST(ChunkMemory, PagesDoubleUpToTheLimit) {
  const ModelConfig config = small_config();
  ChunkMemory memory(config, 1);
  for (int i = 0; i < 300; ++i) memory.append(random_chunks(config, 1, 1));
  EXPECT_EQ(memory.pages(), 4);  // 64, 64, 128, 256
  EXPECT_EQ(memory.bytes(), ChunkMemory::bytes_for(config, 1, 512, 4));
}

TEST(ChunkMemory, SelectsOverPagesAsOverOneTensor) {
  const ModelConfig config = small_config();
  for (const int64_t first_chunk : {int64_t{0}, (int64_t{1} << 33) / 4}) {
    ChunkMemory memory(config, 2, first_chunk, 16);
    const ChunkEncoding all = random_chunks(config, 2, 50);
    memory.append(all);
    const at::Tensor rq = at::randn({2, 9, 2, 6});
    Visibility visibility;
    visibility.chunk = 4;
    visibility.first_position = (first_chunk + 44) * 4;
    const Selection paged = memory.select(rq, 5, visibility);
    Visibility from_zero = visibility;
    from_zero.first_position = 44 * 4;
    const Selection flat = select_from_scores(landmark_scores(rq, all.landmarks), 5, from_zero);
    EXPECT_TRUE(at::equal(paged.index, at::where(flat.index >= 0, flat.index + first_chunk, flat.index)));
    EXPECT_TRUE(at::allclose(paged.score, flat.score, 1e-5, 1e-6));
  }
}

TEST(ChunkMemory, SelectFromNothingHasNoSlots) {
  ChunkMemory memory(small_config(), 3);
  const Selection nothing = memory.select(at::randn({3, 5, 2, 6}), 8, {4});
  EXPECT_EQ(nothing.index.sizes(), (at::IntArrayRef{3, 5, 2, 0}));
}

// What the renumbered index names in the gathered keys is what the index names in the memory.
void expect_gathered(const ChunkMemory& memory, const ChunkEncoding& all, const at::Tensor& index) {
  at::Tensor k, v, local;
  memory.gather(index, &k, &v, &local);
  ASSERT_EQ(local.sizes(), index.sizes());
  const int64_t B = index.size(0), S = 4;
  for (int64_t b = 0; b < B; ++b) {
    const at::Tensor a = index[b].reshape({-1}), l = local[b].reshape({-1});
    for (int64_t i = 0; i < a.numel(); ++i) {
      const int64_t want = a[i].item<int64_t>(), have = l[i].item<int64_t>();
      if (want < 0) {
        EXPECT_EQ(have, -1);
        continue;
      }
      const int64_t chunk = want - memory.first_chunk();
      ASSERT_LE((have + 1) * S, k.size(1));
      EXPECT_TRUE(at::equal(k[b].narrow(0, have * S, S), all.k[b].narrow(0, chunk * S, S)));
      EXPECT_TRUE(at::equal(v[b].narrow(0, have * S, S), all.v[b].narrow(0, chunk * S, S)));
    }
  }
}

TEST(ChunkMemory, GathersEachChunkOnce) {
  const ModelConfig config = small_config();
  for (const int64_t batch : {1, 3}) {
    for (const int64_t first_chunk : {int64_t{0}, int64_t{1} << 40}) {
      ChunkMemory memory(config, batch, first_chunk, 16);
      const ChunkEncoding all = random_chunks(config, batch, 70);
      memory.append(all);
      at::Tensor index = at::randint(-1, 70, {batch, 6, 2, 3}, at::kLong);
      if (batch == 3) index[1].fill_(-1);  // a row that selects nothing
      index = at::where(index >= 0, index + first_chunk, index);
      expect_gathered(memory, all, index);
      expect_gathered(memory, all, at::full({batch, 2, 1, 4}, -1, at::kLong));
      // Bounded: a call that names two chunks gets two, however many there are.
      at::Tensor k, v, local;
      memory.gather(at::where(at::arange(8).view({1, 8, 1, 1}).expand({batch, 8, 1, 1}) % 2 == 0, first_chunk + 3, first_chunk + 69), &k,
                    &v, &local);
      EXPECT_EQ(k.size(1), 2 * 4);
    }
  }
}

TEST(ChunkMemory, OnePageIsHandedOutWithoutCopy) {
  const ModelConfig config = small_config();
  ChunkMemory memory(config, 2);
  const ChunkEncoding all = random_chunks(config, 2, 10);
  memory.append(all);
  expect_gathered(memory, all, at::randint(-1, 10, {2, 6, 1, 3}, at::kLong));
  at::Tensor k, v, local, k2;
  memory.gather(at::full({2, 1, 1, 1}, 3, at::kLong), &k, &v, &local);
  memory.gather(at::full({2, 1, 1, 1}, 4, at::kLong), &k2, &v, &local);
  EXPECT_EQ(k.data_ptr(), k2.data_ptr());
}

TEST(ChunkMemory, OverwriteAndRestoreGiveBackTheBits) {
  const ModelConfig config = small_config();
  ChunkMemory memory(config, 1, 100, 16);
  const ChunkEncoding all = random_chunks(config, 1, 60), other = random_chunks(config, 1, 9);
  memory.append(all);
  const ChunkEncoding saved = memory.copy(112, 9);
  memory.overwrite(112, other);
  EXPECT_TRUE(same(memory.copy(112, 9), other));
  EXPECT_TRUE(at::equal(memory.copy(100, 12).k, all.k.narrow(1, 0, 48)));
  EXPECT_TRUE(at::equal(memory.copy(121, 39).k, all.k.narrow(1, 84, 156)));
  memory.overwrite(112, saved);
  EXPECT_TRUE(same(memory.copy(100, 60), all));
}

TEST(ChunkMemory, TruncateForgetsTheEnd) {
  const ModelConfig config = small_config();
  ChunkMemory memory(config, 1, 0, 16);
  const ChunkEncoding all = random_chunks(config, 1, 40), more = random_chunks(config, 1, 20);
  memory.append(all);
  memory.truncate(20);
  EXPECT_EQ(memory.pages(), 2);
  memory.append(more);
  EXPECT_EQ(memory.chunks(), 40);
  EXPECT_TRUE(at::equal(memory.copy(0, 20).k, all.k.narrow(1, 0, 80)));
  EXPECT_TRUE(same(memory.copy(20, 20), more));
  memory.truncate(0);
  EXPECT_EQ(memory.chunks(), 0);
}

TEST(ChunkMemory, SharersGrowApart) {
  const ModelConfig config = small_config();
  ChunkMemory memory(config, 2, 0, 16);
  const ChunkEncoding all = random_chunks(config, 2, 21), more = random_chunks(config, 2, 3), one = random_chunks(config, 1, 8);
  memory.append(all);
  ChunkMemory other = memory.share(), row = memory.row(1);
  row.append(one);
  other.truncate(19);
  other.append(random_chunks(config, 2, 4));
  memory.append(more);
  EXPECT_TRUE(same(memory.copy(0, 21), all));
  EXPECT_TRUE(same(memory.copy(21, 3), more));
  EXPECT_TRUE(at::equal(row.copy(0, 21).k, all.k.narrow(0, 1, 1)));
  EXPECT_TRUE(same(row.copy(21, 8), one));
  EXPECT_EQ(other.chunks(), 23);
}

}  // namespace
}  // namespace cairn
