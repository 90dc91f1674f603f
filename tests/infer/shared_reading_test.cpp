// A text read in parts by several processes gives, bit for bit, the chunks and the state of one process.
#include "cairn/infer/shared_reading.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "dist/processes.h"
#include "infer/random_model.h"

namespace cairn {
namespace {

using testing::in_helper;

void expect_same(const at::Tensor& a, const at::Tensor& b, const char* what) {
  ASSERT_EQ(a.defined(), b.defined()) << what;
  if (a.defined()) {
    EXPECT_TRUE(at::equal(a, b)) << what;
  }
}

// Every process makes the same settings; process 0 reads, the others follow.
TEST(SharedReadingHelper, EqualChunks) {
  if (!in_helper()) GTEST_SKIP() << "runs inside SharedReading.GivesTheChunksOfOneProcess";
  const auto world = World::from_environment();
  int parts = 0, stops = 0;
  for (int trial = 0; trial < 12; ++trial) {
    Random random(trial, 3);
    const ModelConfig config = random_config(random);
    ReaderOptions options;
    options.segment = 1 + random.below(90);
    options.compute = trial % 3 == 2 ? at::kBFloat16 : at::kFloat;
    const Reader reader(random_model(config, trial), options);
    const int64_t block = std::max<int64_t>(1, reader.segment_tokens() / config.chunk) * config.chunk;
    SharedReading shared(reader, *world, block * (1 + random.below(4)));
    SCOPED_TRACE(fmt::format("trial {}, blocks of {}, parts of {}: {}", trial, block, shared.part_tokens(), describe(config)));
    if (world->rank() > 0) {
      EXPECT_EQ(shared.follow(), 7);
      continue;
    }
    // Whole parts, some blocks alone in between (the others do not see those), and an end of any length.
    const int64_t alone = random.below(3) * block, rest = 1 + random.below(shared.part_tokens()),
                  length = alone + 2 * shared.part_tokens() + rest;
    const at::Tensor tokens = random_tokens(random, 1, length, config.vocab);
    std::vector<int32_t> ids(length);
    for (int64_t i = 0; i < length; ++i) ids[i] = static_cast<int32_t>(tokens[0][i].item<int64_t>());
    const auto one = reader.new_reader_state(1), state = reader.new_reader_state(1);
    reader.read(*one, tokens);
    std::vector<ChunkEncoding> chunks;
    int64_t at = 0;
    // Told to stop inside of it, process 0 keeps whole blocks of its own; the rest is then another part.
    const auto together = [&](int64_t n) {
      for (const int64_t end = at + n; at < end; at = state->end) {
        int64_t asked = 0;
        const int64_t patience = random.chance(.7) ? random.below(3) : 1000;
        const auto go_on = [&] { return ++asked <= patience; };
        for (ChunkEncoding& some : shared.read(*state, {ids.data() + at, static_cast<size_t>(end - at)}, go_on))
          chunks.push_back(std::move(some));
        EXPECT_EQ(state->memory.chunks(), 0);
        if (asked <= patience) {
          EXPECT_EQ(state->end, end);
        } else {
          ++stops;
          const int64_t blocks = (end - at + block - 1) / block, share = (blocks + world->size() - 1) / world->size() * block;
          ASSERT_EQ(state->end, at + std::min({asked * block, share, end - at})) << "asked after each block";
        }
      }
      ++parts;
    };
    together(shared.part_tokens());
    if (alone > 0) {
      shared.forget();
      reader.read(*state, tokens.narrow(1, at, alone));
      at += alone;
      chunks.push_back(state->memory.copy(state->memory.first_chunk(), state->memory.chunks()));
      state->memory = ChunkMemory(config, 1, state->memory.end_chunk());
    }
    shared.still_here();
    together(shared.part_tokens());
    together(rest);
    shared.end(7);
    std::vector<at::Tensor> landmarks, k, v;
    for (const ChunkEncoding& some : chunks) landmarks.push_back(some.landmarks), k.push_back(some.k), v.push_back(some.v);
    const ChunkEncoding want = one->memory.copy(0, one->memory.chunks());
    expect_same(at::cat(landmarks, 1), want.landmarks, "landmarks");
    expect_same(at::cat(k, 1), want.k, "keys");
    expect_same(at::cat(v, 1), want.v, "values");
    expect_same(state->partial, one->partial, "incomplete chunk");
    expect_same(state->tail, one->tail, "tail");
    ASSERT_EQ(state->lower.size(), one->lower.size());
    for (size_t i = 0; i < state->lower.size(); ++i) {
      expect_same(state->lower[i].k, one->lower[i].k, "lower keys");
      expect_same(state->lower[i].v, one->lower[i].v, "lower values");
    }
  }
  EXPECT_TRUE(world->rank() > 0 || (parts == 36 && stops > 8)) << parts << " " << stops;
}

TEST(SharedReading, GivesTheChunksOfOneProcess) {
  for (const int size : {2, 3})
    EXPECT_TRUE(testing::run_world("SharedReadingHelper.EqualChunks", size, {{"OMP_NUM_THREADS", "1"}})) << size;
}

}  // namespace
}  // namespace cairn
