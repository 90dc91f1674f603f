// Edits are local: overwriting tokens of a text that was read gives what a fresh read of the changed text gives (docs/algorithm.md section
// 4, point 3).
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include "cairn/infer/decoder.h"
#include "cairn/infer/reader.h"
#include "infer/random_model.h"

namespace cairn {
namespace {

TokenFetch fetch_from(const at::Tensor& tokens, int64_t first = 0) {
  return [=](int64_t row, int64_t begin, std::span<int32_t> out) {
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = static_cast<int32_t>(tokens[row][begin - first + static_cast<int64_t>(i)].item<int64_t>());
  };
}

TEST(Rewrite, EqualsAFreshReadAndRestoresTheBits) {
  for (int trial = 0; trial < 40; ++trial) {
    Random random(trial, 11);
    const ModelConfig config = random_config(random);
    const auto model = random_model(config, trial);
    const int64_t length = 40 + random.below(60), batch = 1 + random.below(2), tail = 12;
    const at::Tensor text = random_tokens(random, batch, length + tail, config.vocab);
    const int64_t first = random.chance(.3) ? (int64_t{1} << 33) / config.chunk * config.chunk : 0;
    ReaderOptions options;
    options.segment = 1 + random.below(50);
    const Reader reader(model, options);
    SCOPED_TRACE(fmt::format("trial {} length {} segment {}: {}", trial, length, options.segment, describe(config)));
    const auto state = reader.new_reader_state(batch, first);
    reader.read(*state, text.narrow(1, 0, length));
    const auto before = state->fork();
    const ChunkEncoding chunks =
        state->memory.chunks() > 0 ? state->memory.copy(state->memory.first_chunk(), state->memory.chunks()) : ChunkEncoding{};

    // One to three edits, near the start, the end, anywhere.
    at::Tensor changed = text.clone();
    std::vector<std::pair<int64_t, int64_t>> edits;
    for (int64_t e = 1 + random.below(3); e > 0; --e) {
      int64_t begin = random.below(length);
      if (random.chance(.2)) begin = 0;
      const int64_t end = random.chance(.2) ? length : std::min(length, begin + 1 + random.below(9));
      changed.narrow(1, begin, end - begin).copy_(random_tokens(random, batch, end - begin, config.vocab));
      edits.emplace_back(begin, end);
    }
    std::vector<Reader::Replaced> replaced;
    for (const auto& [begin, end] : edits)
      replaced.push_back(reader.rewrite(*state, first + begin, first + end, fetch_from(changed, first)));
    const at::Tensor whole = forward_logits(*model, changed).narrow(1, length, tail);
    const auto asked = state->fork();
    EXPECT_LE(relative_rms(reader.advance(*asked, text.narrow(1, length, tail)), whole), 2e-5);
    // The state itself went on as a fresh one would: reading more and asking then.
    const auto more = state->fork();
    reader.read(*more, text.narrow(1, length, 5));
    EXPECT_LE(relative_rms(reader.advance(*more, text.narrow(1, length + 5, tail - 5)), whole.narrow(1, 5, tail - 5)), 2e-5);

    for (size_t i = replaced.size(); i-- > 0;) reader.restore(*state, replaced[i]);
    if (state->memory.chunks() > 0) {
      const ChunkEncoding after = state->memory.copy(state->memory.first_chunk(), state->memory.chunks());
      EXPECT_TRUE(at::equal(after.landmarks, chunks.landmarks) && at::equal(after.k, chunks.k) && at::equal(after.v, chunks.v));
    }
    EXPECT_TRUE(at::equal(state->tail, before->tail) && at::equal(state->partial, before->partial));
    for (size_t i = 0; i < state->lower.size(); ++i) EXPECT_TRUE(at::equal(state->lower[i].k, before->lower[i].k));
  }
}

TEST(Rewrite, TouchesNoMoreThanItMust) {
  ModelConfig config;
  config.vocab = 29, config.d_model = 32, config.heads = config.kv_heads = 4, config.head_dim = 8, config.mlp_width = 48;
  config.window = 5, config.lower_layers = 2, config.chunk = 8, config.retrieval_dim = 16, config.memory_heads = 4;
  config.upper = {"memory", "window"};
  const auto model = random_model(config, 1);
  Random random(1);
  const at::Tensor text = random_tokens(random, 1, 400, config.vocab);
  const Reader reader(model);
  const auto state = reader.new_reader_state(1);
  reader.read(*state, text);
  // Token 100 alone: R_low = 2 * 4 = 8, so states 100 .. 108 change: chunks 12 and 13; reading starts 8 tokens before chunk 12.
  const auto one = reader.rewrite(*state, 100, 101, fetch_from(text));
  EXPECT_EQ(one.first_chunk, 12);
  EXPECT_EQ(one.chunks.landmarks.size(1), 2);
  EXPECT_EQ(one.tokens, 112 - 88);
  EXPECT_FALSE(one.end_touched);
  EXPECT_TRUE(reader.rewrite(*state, 399, 400, fetch_from(text)).end_touched);
}

TEST(Decoder, GreedyEqualsForwardAgainAndAgain) {
  for (int trial = 0; trial < 8; ++trial) {
    Random random(trial, 13);
    const ModelConfig config = random_config(random);
    const auto model = random_model(config, 100 + trial);
    const at::Tensor prompt = random_tokens(random, 2, 30, config.vocab);
    SCOPED_TRACE(describe(config));
    const Reader reader(model);
    const auto state = reader.new_reader_state(2);
    reader.read(*state, prompt.narrow(1, 0, 20));
    const auto made = generate(reader, *state, prompt.narrow(1, 20, 10), 9);
    for (int64_t row = 0; row < 2; ++row) {
      ASSERT_EQ(made[row].size(), 9u);
      at::Tensor ids = prompt.narrow(0, row, 1).clone();
      for (int64_t i = 0; i < 9; ++i) {
        const int64_t want = forward_logits(*model, ids).select(1, ids.size(1) - 1).argmax(-1).item<int64_t>();
        ASSERT_EQ(made[row][i], want) << "row " << row << " token " << i;
        ids = at::cat({ids, at::full({1, 1}, want, at::kLong)}, 1);
      }
    }
  }
}

TEST(Decoder, RowsWithPromptsOfDifferentLengthGoInStep) {
  Random random(3, 13);
  const ModelConfig config = random_config(random);
  const auto model = random_model(config, 7);
  const at::Tensor given = random_tokens(random, 3, 40, config.vocab);
  const Reader reader(model);
  const std::vector<int64_t> begin = {20, 31, 26}, end = {25, 40, 26};
  const auto made = generate(reader, *reader.new_reader_state(3), given, begin, end);
  EXPECT_TRUE(made[2].empty());
  for (int64_t row = 0; row < 2; ++row) {
    const auto alone =
        generate(reader, *reader.new_reader_state(1), given.narrow(0, row, 1).narrow(1, 0, begin[row]), end[row] - begin[row]);
    EXPECT_EQ(made[row], alone[0]);
  }
}

}  // namespace
}  // namespace cairn
