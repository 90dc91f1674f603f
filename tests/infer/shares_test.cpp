// A memory dealt out to several processes gives the logits of one memory: reading, asking, decoding, edits, questions in batches.
#include "cairn/infer/shares.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/infer/decoder.h"
#include "cairn/infer/reader.h"
#include "dist/processes.h"
#include "infer/random_model.h"

namespace cairn {
namespace {

using testing::in_helper;

// Two parts of one memory, merged, are what selecting in the whole gives, ties and unused slots included.
TEST(Shares, KeysMergeSelections) {
  for (int trial = 0; trial < 40; ++trial) {
    Random random(trial, 31);
    const int64_t C = 1 + random.below(40), cut = random.below(C + 1), n = 1 + random.below(9), L = 1 + random.below(30);
    Visibility v;
    v.chunk = 4;
    v.first_position = random.below(4 * C);
    // Few different scores: most comparisons are ties. Negative zero is zero.
    const at::Tensor score = (at::randn({2, L, 2, C}) * 1.5).round() * (random.chance(.5) ? 1.0 : -0.0);
    const Selection whole = select_from_scores(score, n, v);
    Selection left = select_from_scores(score.narrow(3, 0, cut), n, v);
    Visibility behind = v;
    behind.first_chunk = cut;
    Selection right = select_from_scores(score.narrow(3, cut, C - cut), n, behind);
    right.index = at::where(right.index >= 0, right.index + cut, right.index);
    const int64_t slots = std::min(n, C);
    const Selection merged = selection_of_keys(at::cat({selection_keys(left, slots), selection_keys(right, slots)}, 3), slots);
    ASSERT_TRUE(merged.index.equal(whole.index)) << trial;
    ASSERT_TRUE(merged.score.equal(whole.score)) << trial;
  }
}

struct Setting {
  ModelConfig config;
  std::shared_ptr<const Model> model;
  at::Tensor tokens;
};

Setting make_setting(uint64_t seed, int64_t batch, int64_t length) {
  Random random(seed, 7);
  Setting s;
  s.config = random_config(random);
  s.model = random_model(s.config, seed);
  s.tokens = random_tokens(random, batch, length, s.config.vocab);
  return s;
}

Reader reader_of(const Setting& s, int64_t segment, const std::shared_ptr<World>& world, EightBit eight_bit = {}) {
  ReaderOptions options;
  options.eight_bit = eight_bit;
  options.segment = segment;
  options.world = world;
  return Reader(s.model, options);
}

TEST(SharesHelper, EqualLogits) {
  if (!in_helper()) GTEST_SKIP() << "runs inside Shares.LogitsAreThoseOfOneProcess";
  const auto world = World::from_environment();
  int64_t bit_equal = 0, held = 0;
  constexpr int kTrials = 16;
  for (int trial = 0; trial < kTrials; ++trial) {
    Random random(trial, 1);
    const int64_t batch = 1 + random.below(3), length = 30 + random.below(200), cut = 1 + random.below(length - 20);
    const Setting s = make_setting(trial, batch, length);
    SCOPED_TRACE(fmt::format("trial {} batch {} length {} cut {}: {}", trial, batch, length, cut, describe(s.config)));
    const int64_t segment = 1 + random.below(90);
    const EightBit kept = {trial % 4 == 1, trial % 4 == 1 || trial % 4 == 2};
    const Reader alone = reader_of(s, segment, nullptr, kept), shared = reader_of(s, segment, world, kept);
    const auto one = alone.new_reader_state(batch), all = shared.new_reader_state(batch);
    alone.read(*one, s.tokens.narrow(1, 0, cut));
    shared.read(*all, s.tokens.narrow(1, 0, cut));
    ASSERT_EQ(all->position(), cut);
    ASSERT_EQ(all->chunks(), one->memory.chunks());
    at::Tensor sum = at::tensor({all->memory.chunks()}, at::kLong);
    held = std::max(held, all->memory.chunks());
    world->all_reduce_sum(sum);
    ASSERT_EQ(sum.item<int64_t>(), one->memory.chunks());  // each chunk is held once

    // A question, a second one after it, tokens one by one, more text behind it, and another question.
    std::vector<at::Tensor> want, have;
    for (int64_t at = cut; at < length;) {
      const int64_t left = length - at, n = std::min(left, random.chance(.3) ? int64_t{1} : 1 + random.below(left));
      const at::Tensor part = s.tokens.narrow(1, at, n);
      if (random.chance(.2)) {
        alone.read(*one, part);
        shared.read(*all, part);
      } else {
        want.push_back(alone.advance(*one, part));
        have.push_back(shared.advance(*all, part));
      }
      at += n;
    }
    if (want.empty()) continue;
    const at::Tensor a = at::cat(have, 1), b = at::cat(want, 1);
    EXPECT_LE(relative_rms(a, b), 1e-5);
    bit_equal += a.equal(b);
  }
  fmt::print("{} of {} trials bit-equal\n", bit_equal, kTrials);
  EXPECT_GE(bit_equal, kTrials / 2);  // scores are products over pages, which a share cuts elsewhere: their last bit may differ
  EXPECT_GT(held, 0);
}

// Edits are made by whoever holds the chunks; expanded and forked states, greedy generation.
TEST(SharesHelper, EditsAndGeneration) {
  if (!in_helper()) GTEST_SKIP() << "runs inside Shares.LogitsAreThoseOfOneProcess";
  const auto world = World::from_environment();
  for (int trial = 0; trial < 6; ++trial) {
    Random random(trial, 2);
    const int64_t length = 200, cut = 160;
    Setting s = make_setting(500 + trial, 1, length);
    SCOPED_TRACE(fmt::format("trial {}: {}", trial, describe(s.config)));
    const Reader alone = reader_of(s, 16, nullptr), shared = reader_of(s, 16, world);
    const auto one = alone.new_reader_state(1), all = shared.new_reader_state(1);
    alone.read(*one, s.tokens.narrow(1, 0, cut));
    shared.read(*all, s.tokens.narrow(1, 0, cut));
    const at::Tensor question = s.tokens.narrow(1, cut, length - cut);
    const at::Tensor before = shared.advance(*all->fork(), question);
    const int64_t begin = random.below(cut - 8), end = begin + 1 + random.below(8);
    at::Tensor text = s.tokens.clone();
    text.narrow(1, begin, end - begin).copy_(random_tokens(random, 1, end - begin, s.config.vocab));
    const TokenFetch fetch = [&](int64_t row, int64_t from, std::span<int32_t> out) {
      for (size_t i = 0; i < out.size(); ++i)
        out[i] = static_cast<int32_t>(text.data_ptr<int64_t>()[row * length + from + static_cast<int64_t>(i)]);
    };
    alone.rewrite(*one, begin, end, fetch);
    const Reader::Replaced replaced = shared.rewrite(*all, begin, end, fetch);
    EXPECT_LE(relative_rms(shared.advance(*all->fork(), question), alone.advance(*one->fork(), question)), 1e-5);
    const auto many = all->expand(3), few = one->expand(3);
    const at::Tensor questions = random_tokens(random, 3, 9, s.config.vocab);
    EXPECT_LE(relative_rms(shared.advance(*many, questions), alone.advance(*few, questions)), 1e-5);
    EXPECT_EQ(generate(shared, *all->fork(), question, 20), generate(alone, *one->fork(), question, 20));
    shared.restore(*all, replaced);
    EXPECT_TRUE(shared.advance(*all->fork(), question).equal(before));
  }
}

TEST(Shares, LogitsAreThoseOfOneProcess) {
  for (const int size : {2, 3}) {
    EXPECT_TRUE(testing::run_world("SharesHelper.EqualLogits", size, {{"OMP_NUM_THREADS", "1"}})) << size;
    EXPECT_TRUE(testing::run_world("SharesHelper.EditsAndGeneration", size, {{"OMP_NUM_THREADS", "1"}})) << size;
  }
}

// What a process cannot do with a share alone it says.
TEST(SharesHelper, Refusals) {
  if (!in_helper()) GTEST_SKIP() << "runs inside Shares.MassesNeedOneProcess";
  const auto world = World::from_environment();
  const Setting s = make_setting(3, 1, 60);
  const Reader shared = reader_of(s, 16, world);
  const auto all = shared.new_reader_state(1);
  shared.read(*all, s.tokens.narrow(1, 0, 50));
  AskOptions ask;
  ask.want_mass = true;
  EXPECT_THROW(shared.advance_last(*all, s.tokens.narrow(1, 50, 10), 1, nullptr, ask), UserError);
}

TEST(Shares, MassesNeedOneProcess) { EXPECT_TRUE(testing::run_world("SharesHelper.Refusals", 2)); }

}  // namespace
}  // namespace cairn
