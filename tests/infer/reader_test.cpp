// Cached equals cold: every way of reading a text gives the logits of one forward pass over it (docs/algorithm.md section 4 and 5).
#include "cairn/infer/reader.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "infer/random_model.h"

namespace cairn {
namespace {

constexpr double kTolerance = 1e-5;
constexpr int kTrials = 40;

// Selection has near-ties now and then; with fp32 rounding a different choice changes logits by far more than rounding. Random weights make
// that rare: a trial whose selections differ is counted, and the test fails when more than a few do.
struct Setting {
  ModelConfig config;
  std::shared_ptr<const Model> model;
  at::Tensor tokens, whole;
};

Setting make_setting(uint64_t seed, int64_t batch, int64_t length) {
  Random random(seed, 7);
  Setting s;
  s.config = random_config(random);
  s.model = random_model(s.config, seed);
  s.tokens = random_tokens(random, batch, length, s.config.vocab);
  s.whole = forward_logits(*s.model, s.tokens);
  return s;
}

TEST(Reader, ReadThenAdvanceEqualsForward) {
  for (int trial = 0; trial < kTrials; ++trial) {
    Random random(trial, 1);
    const int64_t length = 20 + random.below(60), cut = random.below(length), batch = 1 + random.below(3);
    const Setting s = make_setting(trial, batch, length);
    SCOPED_TRACE(fmt::format("trial {} length {} cut {}: {}", trial, length, cut, describe(s.config)));
    ReaderOptions options;
    options.segment = 1 + random.below(60);
    const Reader reader(s.model, options);
    const auto state = reader.new_state(batch);
    // Read in pieces of any size, then ask in pieces of any size.
    for (int64_t at = 0; at < cut;) {
      const int64_t n = 1 + random.below(cut - at);
      reader.read(*state, s.tokens.narrow(1, at, n));
      at += n;
    }
    std::vector<at::Tensor> logits;
    for (int64_t at = cut; at < length;) {
      const int64_t n = 1 + random.below(length - at);
      logits.push_back(reader.advance(*state, s.tokens.narrow(1, at, n)));
      at += n;
    }
    EXPECT_EQ(state->position(), length);
    EXPECT_LE(relative_rms(at::cat(logits, 1), s.whole.narrow(1, cut, length - cut)), kTolerance);
  }
}

TEST(Reader, DecodingOneByOneEqualsTeacherForcing) {
  for (int trial = 100; trial < 100 + kTrials / 2; ++trial) {
    const Setting s = make_setting(trial, 2, 45);
    SCOPED_TRACE(fmt::format("trial {}: {}", trial, describe(s.config)));
    const Reader reader(s.model);
    const auto state = reader.new_state(2);
    std::vector<at::Tensor> logits;
    for (int64_t t = 0; t < 45; ++t) logits.push_back(reader.advance(*state, s.tokens.narrow(1, t, 1)));
    EXPECT_LE(relative_rms(at::cat(logits, 1), s.whole), kTolerance);
  }
}

TEST(Reader, AdvanceAfterReadAfterAdvance) {
  for (int trial = 200; trial < 200 + kTrials / 2; ++trial) {
    const Setting s = make_setting(trial, 1, 70);
    SCOPED_TRACE(fmt::format("trial {}: {}", trial, describe(s.config)));
    const Reader reader(s.model);
    const auto state = reader.new_state(1);
    reader.advance(*state, s.tokens.narrow(1, 0, 17));
    reader.read(*state, s.tokens.narrow(1, 17, 20));
    const at::Tensor logits = reader.advance(*state, s.tokens.narrow(1, 37, 33));
    EXPECT_LE(relative_rms(logits, s.whole.narrow(1, 37, 33)), kTolerance);
  }
}

TEST(Reader, TailOfUpperReachIsNeeded) {
  // One midpoint state fewer than n_up (W-1) is not exact: a reader that keeps too little would go unnoticed otherwise.
  ModelConfig config;
  Random random(5);
  do config = random_config(random);
  while (config.upper_windows() != 2 || config.window != 9 || config.retrieval_stride != "token" || config.lower_layers != 1);
  const auto model = random_model(config, 5);
  const at::Tensor tokens = random_tokens(random, 1, 60, config.vocab);
  const at::Tensor whole = forward_logits(*model, tokens);
  const Reader reader(model);
  const auto state = reader.new_reader_state(1);
  reader.read(*state, tokens.narrow(1, 0, 59));
  ASSERT_EQ(state->tail.size(1), 16);
  const auto shorter = state->fork();
  shorter->tail = state->tail.narrow(1, 1, 15);
  EXPECT_LE(relative_rms(reader.advance(*state, tokens.narrow(1, 59, 1)), whole.narrow(1, 59, 1)), kTolerance);
  EXPECT_GT(relative_rms(reader.advance(*shorter, tokens.narrow(1, 59, 1)), whole.narrow(1, 59, 1)), 10 * kTolerance);
}

TEST(Reader, ABatchRowEqualsTheRowAlone) {
  for (int trial = 300; trial < 300 + kTrials / 2; ++trial) {
    const Setting s = make_setting(trial, 3, 50);
    SCOPED_TRACE(fmt::format("trial {}: {}", trial, describe(s.config)));
    const Reader reader(s.model);
    const auto state = reader.new_reader_state(3);
    reader.read(*state, s.tokens.narrow(1, 0, 31));
    const auto split = state->row(1);
    const auto alone = reader.new_state(1);
    reader.read(*alone, s.tokens.narrow(0, 1, 1).narrow(1, 0, 31));
    const at::Tensor together = reader.advance(*state, s.tokens.narrow(1, 31, 19)).narrow(0, 1, 1);
    const at::Tensor rest = s.tokens.narrow(0, 1, 1).narrow(1, 31, 19);
    EXPECT_LE(relative_rms(reader.advance(*alone, rest), together), kTolerance);
    EXPECT_LE(relative_rms(reader.advance(*split, rest), together), kTolerance);
  }
}

TEST(Reader, Causality) {
  for (int trial = 400; trial < 400 + kTrials / 2; ++trial) {
    const Setting s = make_setting(trial, 1, 48);
    SCOPED_TRACE(fmt::format("trial {}: {}", trial, describe(s.config)));
    Random random(trial, 3);
    const int64_t at = random.below(48);
    at::Tensor changed = s.tokens.clone();
    changed.narrow(1, at, 1).add_(1).remainder_(s.config.vocab);
    const at::Tensor other = forward_logits(*s.model, changed);
    if (at > 0) {
      EXPECT_LE(relative_rms(other.narrow(1, 0, at), s.whole.narrow(1, 0, at)), 1e-6);
    }
    EXPECT_GT(relative_rms(other.narrow(1, at, 1), s.whole.narrow(1, at, 1)), 1e-4);
    const Reader reader(s.model);
    const auto state = reader.new_state(1);
    const at::Tensor read = reader.advance(*state, changed);
    if (at > 0) {
      EXPECT_LE(relative_rms(read.narrow(1, 0, at), s.whole.narrow(1, 0, at)), kTolerance);
    }
  }
}

TEST(Reader, StreamedReadingEqualsTokensAtHand) {
  const Setting s = make_setting(500, 2, 64);
  ReaderOptions options;
  options.segment = 24;
  const Reader reader(s.model, options);
  const auto a = reader.new_reader_state(2), b = reader.new_reader_state(2);
  reader.read(*a, s.tokens.narrow(1, 0, 50));
  int64_t last = 0;
  reader.read(
      *b, 50,
      [&](int64_t row, int64_t begin, std::span<int32_t> out) {
        for (size_t i = 0; i < out.size(); ++i)
          out[i] = static_cast<int32_t>(s.tokens[row][begin + static_cast<int64_t>(i)].item<int64_t>());
      },
      [&](int64_t done) {
        EXPECT_GT(done, last);
        last = done;
        return true;
      });
  EXPECT_EQ(last, 50);
  EXPECT_TRUE(at::equal(reader.advance(*a, s.tokens.narrow(1, 50, 14)), reader.advance(*b, s.tokens.narrow(1, 50, 14))));
}

TEST(Reader, PositionsAboveTwoToTheThirtyFirst) {
  // Rotary and ALiBi are relative and the memory has no positions: a text that starts at 2^33 reads as one that starts at 0.
  for (int trial = 600; trial < 600 + kTrials / 2; ++trial) {
    Setting s = make_setting(trial, 2, 60);
    SCOPED_TRACE(fmt::format("trial {}: {}", trial, describe(s.config)));
    const Reader reader(s.model);
    const auto state = reader.new_reader_state(2, (int64_t{1} << 33) / s.config.chunk * s.config.chunk);
    reader.read(*state, s.tokens.narrow(1, 0, 35));
    Trace trace;
    const at::Tensor logits = reader.advance(*state, s.tokens.narrow(1, 35, 25), &trace);
    EXPECT_LE(relative_rms(logits, s.whole.narrow(1, 35, 25)), 2 * kTolerance);
    const at::Tensor index = trace.retrievals.at(0).selection.index;
    EXPECT_TRUE((index.lt(0) | index.ge((int64_t{1} << 33) / s.config.chunk)).all().item<bool>());
  }
}

TEST(Reader, TraceNamesTheChunksOfAForwardPass) {
  for (int trial = 700; trial < 700 + kTrials / 2; ++trial) {
    const Setting s = make_setting(trial, 2, 60);
    SCOPED_TRACE(fmt::format("trial {}: {}", trial, describe(s.config)));
    ReaderOptions options;
    options.segment = 2 * 7;  // several blocks in one advance
    const Reader reader(s.model, options);
    const auto state = reader.new_state(2);
    reader.read(*state, s.tokens.narrow(1, 0, 20));
    Trace whole, trace;
    forward_logits(*s.model, s.tokens, at::kFloat, &whole);
    reader.advance(*state, s.tokens.narrow(1, 20, 40), &trace);
    ASSERT_EQ(trace.retrievals.size(), whole.retrievals.size());
    for (size_t r = 0; r < trace.retrievals.size(); ++r) {
      const at::Tensor have = trace.retrievals[r].selection.index, want = whole.retrievals[r].selection.index.narrow(1, 20, 40);
      const int64_t slots = std::min(have.size(-1), want.size(-1));  // the forward pass may have more slots, unused at these rows
      EXPECT_TRUE(at::equal(have.narrow(-1, 0, slots), want.narrow(-1, 0, slots)));
      EXPECT_TRUE(want.narrow(-1, slots, want.size(-1) - slots).lt(0).all().item<bool>());
      EXPECT_EQ(trace.retrievals[r].query.size(1), 40);
    }
  }
}

TEST(Reader, FloorNeedsOnlyItsReach) {
  for (int trial = 800; trial < 800 + kTrials / 2; ++trial) {
    Setting s = make_setting(trial, 1, 90);
    SCOPED_TRACE(fmt::format("trial {}: {}", trial, describe(s.config)));
    Reader reader(s.model);
    reader.use_memory(false);
    const auto state = reader.new_state(1);
    reader.read(*state, s.tokens.narrow(1, 0, 80));
    const at::Tensor logits = reader.advance(*state, s.tokens.narrow(1, 80, 10));
    const int64_t begin = std::max<int64_t>(0, 80 - Reader::floor_reach(s.config)) / s.config.chunk * s.config.chunk;
    const auto late = reader.new_reader_state(1, begin);
    reader.read(*late, s.tokens.narrow(1, begin, 80 - begin));
    EXPECT_LE(relative_rms(reader.advance(*late, s.tokens.narrow(1, 80, 10)), logits), kTolerance);
    // Switching the memory on again takes effect at once.
    reader.use_memory(true);
    const auto with = reader.new_state(1);
    reader.read(*with, s.tokens.narrow(1, 0, 80));
    EXPECT_LE(relative_rms(reader.advance(*with, s.tokens.narrow(1, 80, 10)), s.whole.narrow(1, 80, 10)), kTolerance);
  }
}

TEST(Reader, NoVisibleChunkMeansNoMemory) {
  for (int trial = 900; trial < 900 + kTrials / 2; ++trial) {
    const Setting s = make_setting(trial, 1, 40);
    SCOPED_TRACE(fmt::format("trial {}: {}", trial, describe(s.config)));
    Reader reader(s.model);
    reader.use_memory(false);
    const auto state = reader.new_state(1);
    const int64_t blind = s.config.chunk;  // tokens 0 .. S-1 see nothing
    const at::Tensor without = reader.advance(*state, s.tokens.narrow(1, 0, blind));
    EXPECT_LE(relative_rms(without, s.whole.narrow(1, 0, blind)), 1e-6);
  }
}

TEST(Reader, BoundedState) {
  const Setting s = make_setting(1000, 1, 40);
  const Reader reader(s.model);
  const auto state = reader.new_reader_state(1);
  Random random(3);
  reader.read(*state, random_tokens(random, 1, 400, s.config.vocab));
  const int64_t small = state->bytes() - state->memory.bytes();
  reader.read(*state, random_tokens(random, 1, 4000, s.config.vocab));
  EXPECT_LE(state->bytes() - state->memory.bytes(), small + s.config.chunk * s.config.d_model * 4);
  EXPECT_LE(state->bytes(), Reader::state_bytes(s.config, 1, 4400, at::kFloat));
  for (const int64_t chunks : {1, 2, 63, 64, 65, 130}) {  // the first page has room for 64, whatever is in it
    const auto few = reader.new_reader_state(2);
    const int64_t tokens = chunks * s.config.chunk;
    reader.read(*few, random_tokens(random, 2, tokens, s.config.vocab));
    EXPECT_LE(few->bytes(), Reader::state_bytes(s.config, 2, tokens, at::kFloat)) << chunks;
  }
}

TEST(Reader, ReadingInBf16StaysNearForwardInBf16) {
  // Error against fp32 no larger than twice that of the whole pass in bf16.
  for (int trial = 1100; trial < 1110; ++trial) {
    Setting s = make_setting(trial, 1, 64);
    s.config.top_k = 100;  // choices may differ in bf16; all chunks leave only rounding
    const auto model = std::make_shared<Model>(s.config, s.model->parameters());
    SCOPED_TRACE(fmt::format("trial {}: {}", trial, describe(s.config)));
    const at::Tensor exact = forward_logits(*model, s.tokens), rounded = forward_logits(*model, s.tokens, at::kBFloat16);
    ReaderOptions options;
    options.compute = at::kBFloat16;
    const Reader reader(model, options);
    const auto state = reader.new_state(1);
    reader.read(*state, s.tokens.narrow(1, 0, 40));
    const at::Tensor logits = reader.advance(*state, s.tokens.narrow(1, 40, 24));
    EXPECT_LE(relative_rms(logits, exact.narrow(1, 40, 24)), 2 * relative_rms(rounded.narrow(1, 40, 24), exact.narrow(1, 40, 24)) + 1e-3);
  }
}

}  // namespace
}  // namespace cairn
