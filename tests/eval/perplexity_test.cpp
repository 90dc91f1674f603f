// Losses behind short and long contexts against one forward pass over each context.
#include "cairn/eval/perplexity.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <cmath>

#include "cairn/core/error.h"
#include "cairn/core/json.h"
#include "infer/random_model.h"

namespace cairn {
namespace {

ModelConfig small_config(int64_t vocab) {
  ModelConfig c;
  c.vocab = vocab, c.d_model = 32, c.heads = c.kv_heads = 4, c.head_dim = 8, c.mlp_width = 48, c.window = 5, c.lower_layers = 2,
  c.chunk = 8;
  c.retrieval_dim = 16, c.memory_heads = 4, c.upper = {"memory", "window"}, c.top_k = 3, c.beta = .5;
  return c;
}

struct Fixture {
  std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer("bytes");
  std::shared_ptr<const Model> model = random_model(small_config(tokenizer->vocab_size()), 3);
  Reader reader{model};
  std::vector<int32_t> ids;
  PerplexityPlan plan;
  Fixture() {
    Random random(9);
    for (int i = 0; i < 700; ++i) ids.push_back(static_cast<int32_t>(1 + random.below(256)));
    plan.text = make_memory_source(ids, "random");
    plan.lengths = {40, 250}, plan.near = 40, plan.targets = 16, plan.windows = 3;
  }
  // Losses of tokens begin .. begin + n when the text starts at `start`.
  std::vector<double> reference(int64_t start, int64_t begin, int64_t n) const {
    const at::NoGradGuard no_gradient;
    const at::Tensor tokens = at::empty({1, begin + n - start}, at::kLong);
    for (int64_t i = 0; i < tokens.size(1); ++i) tokens.data_ptr<int64_t>()[i] = ids[start + i];
    const at::Tensor log_p = forward_logits(*model, tokens).log_softmax(-1);
    std::vector<double> losses;
    for (int64_t i = begin; i < begin + n; ++i) losses.push_back(-log_p[0][i - start - 1][ids[i]].item<double>());
    return losses;
  }
};

TEST(Perplexity, EqualsForwardPasses) {
  Fixture f;
  const std::vector<int64_t> ends = window_ends(f.plan);
  EXPECT_EQ(ends, (std::vector<int64_t>{266, 483, 700}));
  for (const int64_t batch : {1, 2, 3}) {
    f.plan.batch = batch;
    int64_t heard = 0;
    const PerplexityResult result = measure_perplexity(f.reader, *f.tokenizer, f.plan, [&](const PerplexityResult& r) {
      EXPECT_GT(r.windows, heard);
      heard = r.windows;
    });
    EXPECT_EQ(heard, 3);
    ASSERT_EQ(result.lengths.size(), 2u);
    Mean near, far, difference, windows;
    for (const int64_t end : ends) {
      const auto a = f.reference(end - 16 - 40, end - 16, 16), b = f.reference(end - 16 - 250, end - 16, 16);
      Mean window;
      for (int i = 0; i < 16; ++i) near.add(a[i]), far.add(b[i]), difference.add(b[i] - a[i]), window.add(b[i] - a[i]);
      windows.add(window.mean);
    }
    EXPECT_EQ(result.lengths[0].loss.n, 48);
    EXPECT_NEAR(result.lengths[0].loss.mean, near.mean, 1e-4);
    EXPECT_NEAR(result.lengths[1].loss.mean, far.mean, 1e-4);
    EXPECT_NEAR(result.lengths[1].difference.mean, difference.mean, 1e-4);
    EXPECT_NEAR(result.lengths[1].difference.standard_error(), difference.standard_error(), 1e-4);
    EXPECT_NEAR(result.lengths[1].window_differences.standard_error(), windows.standard_error(), 1e-4);
    EXPECT_GT(std::abs(difference.mean), 1e-3) << "a test of nothing";
    // The same context on both sides: no rounding, no difference.
    EXPECT_EQ(result.lengths[0].difference.mean, 0);
    EXPECT_EQ(result.lengths[0].difference.standard_error(), 0);
    EXPECT_EQ(result.lengths[0].window_differences.standard_error(), 0);

    // By position: the 16 tokens behind the first p of the longest context.
    std::vector<int64_t> positions;
    for (const PositionLoss& p : result.positions) {
      positions.push_back(p.position);
      Mean expected;
      for (const int64_t end : ends) {
        for (const double loss : f.reference(end - 266, end - 266 + p.position, 16)) expected.add(loss);
      }
      EXPECT_EQ(p.loss.n, 48);
      EXPECT_NEAR(p.loss.mean, expected.mean, 1e-4) << p.position;
    }
    EXPECT_EQ(positions, (std::vector<int64_t>{16, 32, 64, 128, 250}));
    EXPECT_EQ(result.positions.back().loss.mean, result.lengths.back().loss.mean);
    // Bytes: a byte a token.
    EXPECT_EQ(result.bytes, 48);
    EXPECT_NEAR(bits_per_byte(result.lengths[1].loss, result.bytes), far.mean / std::log(2.0), 1e-4);
  }
}

TEST(Perplexity, WithoutMemoryTheFarTextChangesNothing) {
  Fixture f;
  f.plan.lengths = {64, 256};
  f.plan.near = 64;
  f.reader.use_memory(false);
  const PerplexityResult result = measure_perplexity(f.reader, *f.tokenizer, f.plan);
  EXPECT_NEAR(result.lengths[1].difference.mean, 0, 1e-5);
  EXPECT_NEAR(result.lengths[1].loss.mean, result.lengths[0].loss.mean, 1e-5);
}

TEST(Perplexity, WindowsAreEvenAndDisjointOrRefused) {
  Fixture f;
  f.plan.windows = 1;
  EXPECT_EQ(window_ends(f.plan), (std::vector<int64_t>{700}));
  f.plan.windows = 28;  // (700 - 266) / 16 + 1
  const std::vector<int64_t> many = window_ends(f.plan);
  for (size_t i = 1; i < many.size(); ++i) EXPECT_GE(many[i] - many[i - 1], 16);
  EXPECT_LE(many.back(), 700);
  const auto message = [&] {
    try {
      measure_perplexity(f.reader, *f.tokenizer, f.plan);
    } catch (const UserError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  f.plan.windows = 29;
  EXPECT_NE(message().find("room for 28 windows"), std::string::npos) << message();
  f.plan.windows = 1, f.plan.lengths = {800};
  EXPECT_NE(message().find("700 tokens"), std::string::npos) << message();
  f.plan.lengths = {0};
  EXPECT_NE(message().find("1 token or more"), std::string::npos) << message();
  // A text without end: one window behind the other.
  f.plan.text = make_prose_source(f.tokenizer, 1), f.plan.lengths = {100}, f.plan.windows = 3;
  EXPECT_EQ(window_ends(f.plan), (std::vector<int64_t>{116, 232, 348}));
}

TEST(Perplexity, JsonHoldsTheSchema) {
  Fixture f;
  const PerplexityResult result = measure_perplexity(f.reader, *f.tokenizer, f.plan);
  EvalHeader header;
  header.model = "models/x", header.haystack = "random";
  const auto json = parse_json(perplexity_json(header, f.model->config(), result), "test");
  EXPECT_EQ(json["kind"], "perplexity");
  EXPECT_EQ(json["text"], "random");
  EXPECT_EQ(json["windows"], 3);
  EXPECT_EQ(json["near"], 40);
  EXPECT_EQ(json["lengths"][0]["difference"], 0);
  EXPECT_EQ(json["lengths"][1]["tokens"], 48);
  EXPECT_NEAR(json["lengths"][1]["perplexity"].get<double>(), std::exp(result.lengths[1].loss.mean), 1e-6);
  EXPECT_EQ(json["positions"].size(), 5u);
  EXPECT_TRUE(parse_json(perplexity_json(header, f.model->config(), {}), "test")["lengths"].empty());
  EXPECT_NE(perplexity_table(result).find("difference to 40"), std::string::npos);
}

}  // namespace
}  // namespace cairn
