// Answers: batches share one memory and change nothing, draws are functions of the seed, stop strings end an answer, reads are the trace's.
#include "cairn/infer/answer.h"

#include <ATen/ops/empty.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "cairn/core/error.h"
#include "cairn/infer/decoder.h"
#include "infer/text_memory.h"

namespace cairn {
namespace {

std::vector<int32_t> ids_of(const Answer& answer) {
  std::vector<int32_t> ids;
  for (const GeneratedToken& token : answer.tokens) ids.push_back(token.id);
  return ids;
}

TEST(AnswerTest, ABatchSharesOneMemoryAndAnswersAsEachAlone) {
  for (uint64_t seed = 1; seed <= 24; ++seed) {
    Setting s(seed + 400);
    SCOPED_TRACE(fmt::format("seed {}: {}", seed, describe(s.config)));
    const TextMemory text = s.remember(s.ids(1 + s.random.below(200)));
    std::vector<std::vector<int32_t>> prompts;
    for (int i = 0; i < 3; ++i) prompts.push_back(s.ids(1 + s.random.below(9)));
    // Logits: the batch row is the row alone up to rounding.
    const auto batch = text.state->expand(2);
    at::Tensor both = at::empty({2, 4}, at::kLong);
    const std::vector<int32_t> a = s.ids(4), b = s.ids(4);
    std::copy(a.begin(), a.end(), both.data_ptr<int64_t>());
    std::copy(b.begin(), b.end(), both.data_ptr<int64_t>() + 4);
    const at::Tensor logits = s.reader->advance(*batch, both);
    EXPECT_LE(relative_rms(logits.narrow(0, 0, 1), s.ask(text, a)), 1e-5);
    EXPECT_LE(relative_rms(logits.narrow(0, 1, 1), s.ask(text, b)), 1e-5);

    SamplingOptions options;
    options.max_tokens = 2 * s.config.chunk + 3;  // chunks are completed on the way
    options.temperature = seed % 2 == 0 ? 0 : .7;
    const std::vector<Answer> together = answer(*s.reader, *text.state, prompts, *s.tokenizer, options);
    const Answer first = answer(*s.reader, *text.state, {prompts[0]}, *s.tokenizer, options)[0];
    EXPECT_EQ(ids_of(together[0]), ids_of(first));
    const std::vector<Answer> again = answer(*s.reader, *text.state, prompts, *s.tokenizer, options);
    for (size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ(ids_of(again[i]), ids_of(together[i]));
      EXPECT_EQ(std::ssize(together[i].tokens), options.max_tokens);
    }
    if (options.temperature == 0) {
      const auto greedy = generate(*s.reader, *text.state->fork(), Setting::tensor(prompts[0]), options.max_tokens);
      if (*std::max_element(greedy[0].begin(), greedy[0].end()) < s.tokenizer->vocab_size()) {
        EXPECT_EQ(ids_of(first), greedy[0]);
      }
    }
    for (const GeneratedToken& token : first.tokens) {
      double sum = 0;
      for (const ChunkRead& read : token.reads) {
        EXPECT_GE(read.chunk, 0);
        if (read.retrieval == 0) sum += read.weight;
      }
      EXPECT_LE(sum, 1 + 1e-4);
      EXPECT_GT(token.probability, 0);
    }
  }
}

TEST(AnswerTest, StopStringsEndAnAnswerAndAreNotShown) {
  Setting s(11);
  const TextMemory text = s.remember(s.ids(60));
  const std::vector<int32_t> prompt = s.ids(4);
  SamplingOptions options;
  options.max_tokens = 12;
  const std::string whole = answer(*s.reader, *text.state, {prompt}, *s.tokenizer, options)[0].text;
  const size_t second = whole.find(' ', whole.find(' ') + 1);
  ASSERT_NE(second, std::string::npos) << whole;
  options.stop = {"never said", whole.substr(second, 3)};
  std::string shown;
  const Answer stopped = answer(*s.reader, *text.state, {prompt}, *s.tokenizer, options, [&](size_t, std::string_view fresh) {
    shown += fresh;
    return true;
  })[0];
  EXPECT_TRUE(stopped.stopped);
  EXPECT_EQ(stopped.text, whole.substr(0, whole.find(options.stop[1])));
  EXPECT_EQ(shown, stopped.text);
  options.max_tokens = 0;
  EXPECT_THROW(options.validate(), UserError);
}

TEST(DrawTest, FollowsTheDistribution) {
  const std::vector<float> logits = {std::log(.1f), std::log(.6f), std::log(.3f), 50};  // the last is not in the tokenizer
  EXPECT_EQ(draw_token(logits, 3, 0, 1, .9), 1);
  EXPECT_EQ(draw_token(logits, 3, 1, 1, .59), 1);
  EXPECT_EQ(draw_token(logits, 3, 1, 1, .61), 2);
  EXPECT_EQ(draw_token(logits, 3, 1, 1, .89), 2);
  EXPECT_EQ(draw_token(logits, 3, 1, 1, .91), 0);
  EXPECT_EQ(draw_token(logits, 3, 1, .5, .99), 1);
  EXPECT_EQ(draw_token(logits, 3, 1, .7, .99), 2);
  EXPECT_EQ(draw_token(logits, 3, .01, 1, .999), 1);
}

}  // namespace
}  // namespace cairn
