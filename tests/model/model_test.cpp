#include "cairn/model/model.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <fstream>

#include "cairn/core/error.h"
#include "cairn/model/losses.h"
#include "model/random_model.h"

namespace cairn {
namespace {

at::Tensor run(const Model& model, const at::Tensor& tokens, const ForwardOptions& options) {
  const at::NoGradGuard no_gradient;
  return model.logits(model.forward(tokens, options).hidden);
}

TEST(Model, NoOutputDependsOnALaterToken) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    Random random(seed, 1);
    const ModelConfig config = random_config(random);
    const Model model(config, random_parameters(config, random));
    at::Tensor tokens = random_tokens(random, 1, 60, config.vocab);
    const at::Tensor before = run(model, tokens, options_of(config));
    const int64_t changed = 20 + random.below(35);
    tokens[0][changed] = (tokens[0][changed].item<int64_t>() + 1) % config.vocab;
    const at::Tensor after = run(model, tokens, options_of(config));
    EXPECT_TRUE(before.narrow(1, 0, changed).equal(after.narrow(1, 0, changed))) << config.to_json();
    EXPECT_FALSE(before.narrow(1, changed, 1).equal(after.narrow(1, changed, 1)));
  }
}

TEST(Model, ABatchRowEqualsTheRowAlone) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    Random random(seed, 2);
    const ModelConfig config = random_config(random);
    const Model model(config, random_parameters(config, random));
    const at::Tensor tokens = random_tokens(random, 3, 45, config.vocab);
    const at::Tensor all = run(model, tokens, options_of(config));
    for (int64_t b = 0; b < 3; ++b)
      EXPECT_LE(relative_rms(all.narrow(0, b, 1), run(model, tokens.narrow(0, b, 1), options_of(config))), 1e-5) << config.to_json();
  }
}

TEST(Model, RepeatedRunsAreBitEqual) {
  Random random(5, 3);
  const ModelConfig config = random_config(random);
  const Model model(config, random_parameters(config, random));
  const at::Tensor tokens = random_tokens(random, 2, 70, config.vocab);
  EXPECT_TRUE(run(model, tokens, options_of(config)).equal(run(model, tokens, options_of(config))));
}

TEST(Model, NoVisibleChunkMeansNoMemory) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    Random random(seed, 4);
    const ModelConfig config = random_config(random);
    const Model model(config, random_parameters(config, random));
    const at::Tensor tokens = random_tokens(random, 1, config.chunk, config.vocab);  // t < S sees no chunk
    ForwardOptions off = options_of(config);
    off.use_memory = false;
    EXPECT_TRUE(run(model, tokens, options_of(config)).equal(run(model, tokens, off))) << config.to_json();
  }
}

TEST(Model, MemoryChangesTheOutput) {  // the test above would pass if the memory never did anything
  Random random(3, 5);
  ModelConfig config = random_config(random);
  const Model model(config, random_parameters(config, random));
  const at::Tensor tokens = random_tokens(random, 1, 60, config.vocab);
  ForwardOptions off = options_of(config);
  off.use_memory = false;
  EXPECT_GT(relative_rms(run(model, tokens, off).narrow(1, 40, 20), run(model, tokens, options_of(config)).narrow(1, 40, 20)), 1e-3);
}

// alpha = 1 with all chunks selected is ordinary softmax attention over all tokens of visible chunks.
TEST(Model, ExactMassEqualsMaskedSoftmaxAttention) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Random random(seed, 6);
    ModelConfig config = random_config(random);
    config.weights = "softmax";
    config.off_by_one = config.rank_decay = config.exclude_window = false;
    config.retrieval_stride = "token";
    config.memory_kv_heads = config.retrieval_heads = 1;
    config.memory_heads = 2;
    config.lower_layers = 0;
    config.upper = {"memory-mlp"};
    config.alpha = 1;
    config.top_k = 1000;
    const Model model(config, random_parameters(config, random, at::kDouble));
    const at::Tensor tokens = random_tokens(random, 1, 41, config.vocab);
    const at::NoGradGuard no_gradient;
    const ForwardResult forward = model.forward(tokens, options_of(config, at::kDouble));
    // The same by hand.
    const Parameters& p = *model.parameters();
    const at::Tensor x = model.embed(tokens);
    const int64_t S = config.chunk, C = 41 / S;
    const ChunkEncoding memory = model.encode_chunks(x.narrow(1, 0, C * S), at::kDouble);
    const auto norm = [](const at::Tensor& t, const at::Tensor& gain) { return t / (t.pow(2).mean(-1, true) + 1e-6).sqrt() * gain; };
    const at::Tensor h = norm(x, p["upper.0.norm.weight"]);
    const at::Tensor q = norm(h.matmul(p["upper.0.q_proj.weight"].t()).view({41, 2, config.head_dim}), p["upper.0.q_norm.weight"]);
    at::Tensor s = q.transpose(0, 1).matmul(memory.k.view({C * S, config.head_dim}).t()) / std::sqrt(static_cast<double>(config.head_dim));
    const at::Tensor t = at::arange(41).view({-1, 1}), chunk = at::arange(C * S).div(S, "floor").view({1, -1});
    s = s.masked_fill(t < (chunk + 1) * S, -1e30);
    at::Tensor o = s.softmax(-1).matmul(memory.v.view({C * S, config.head_dim}));
    o = o * (at::arange(41) >= S).view({1, -1, 1});
    const at::Tensor u = o.transpose(0, 1).reshape({1, 41, -1}).matmul(p["upper.0.o_proj.weight"].t());
    EXPECT_LE(relative_rms(forward.hidden, norm(x + u, p["norm.weight"])), 1e-9);
  }
}

// All chunks selected: permuting chunks that every token sees leaves the output unchanged (softmax weights, no rank decay: NoPE).
TEST(Model, NAtLeastCEqualsAnyLargerN) {
  Random random(9, 7);
  const ModelConfig config = random_config(random);
  const Model model(config, random_parameters(config, random));
  const at::Tensor tokens = random_tokens(random, 2, 64, config.vocab);
  ForwardOptions a = options_of(config), b = options_of(config);
  a.top_k = 64 / config.chunk;
  b.top_k = 999;
  EXPECT_TRUE(run(model, tokens, a).equal(run(model, tokens, b)));
}

// Gradients of the whole model with cross-entropy and route loss, by central differences in fp64, exact-mass weights included.
// (Distillation's target is detached by design; the oracle checks its gradient.)
TEST(Model, GradientsByFiniteDifferences) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    Random random(seed, 8);
    ModelConfig config = random_config(random);
    config.retrieval_heads = 1;
    config.retrieval_dim = 6;
    const bool warm_up =
        config.weights == "softmax" && !config.off_by_one && !config.rank_decay && config.retrieval_stride == "token" && random.chance(0.7);
    config.alpha = warm_up ? 0.5 : 0;
    config.top_k = 99;  // the choice has no gradient: keep it from changing under the difference
    const auto parameters = random_parameters(config, random, at::kDouble);
    const Model model(config, parameters);
    const int64_t B = 2, L = 34;
    const at::Tensor tokens = random_tokens(random, B, L + 1, config.vocab), input = tokens.narrow(1, 0, L).contiguous(),
                     target = tokens.narrow(1, 1, L).contiguous();
    const at::Tensor weight = at::ones({B, L}, at::kDouble);
    at::Tensor source = at::full({B, L, 2}, int64_t{-1}, at::kLong);
    for (int64_t t = 2 * config.chunk; t < L; ++t) source[0][t][random.below(2)] = random.below(L / config.chunk);
    const auto world = World::single();
    const auto loss_of = [&] {
      ForwardOptions options = options_of(config, at::kDouble);
      const ForwardResult forward = model.forward(input, options);
      at::Tensor loss = token_loss(forward.hidden, (*parameters)["embed.weight"], target, weight, *world).loss;
      loss = loss + 0.3 * route_loss(forward.trace, source, weight, at::Tensor(), config.chunk, world);
      return loss;
    };
    parameters->enable_gradients();
    loss_of().backward();
    const at::NoGradGuard no_gradient;
    for (int i = 0; i < 25; ++i) {
      const ParameterInfo& info = parameters->infos()[random.below(static_cast<int64_t>(parameters->infos().size()))];
      const at::Tensor values = (*parameters)[info.name].view({-1});
      const int64_t j = random.below(values.numel());
      const double start = values[j].item<double>(), step = 1e-5;
      values[j] = start + step;
      const double up = loss_of().item<double>();
      values[j] = start - step;
      const double down = loss_of().item<double>();
      values[j] = start;
      const double numeric = (up - down) / (2 * step), ours = (*parameters)[info.name].grad().view({-1})[j].item<double>();
      EXPECT_NEAR(ours, numeric, 1e-6 + 1e-5 * std::abs(numeric)) << info.name << "[" << j << "] " << config.to_json();
    }
  }
}

TEST(Parameters, AreViewsOfOneBufferAndSurviveAFile) {
  Random random(1, 9);
  const ModelConfig config = random_config(random);
  Parameters a(config, at::kCPU), b(config, at::kCPU);
  a.initialize(7);
  b.initialize(8);
  EXPECT_FALSE(a.flat().equal(b.flat()));
  const fs::path file = fs::temp_directory_path() / "cairn_parameters_test.safetensors";
  save_weights(file, a, at::kFloat);
  load_weights(file, b);
  EXPECT_TRUE(a.flat().equal(b.flat()));
  EXPECT_EQ(a["embed.weight"].data_ptr(), a.flat().data_ptr());
  for (const ParameterInfo& info : a.infos()) EXPECT_EQ(info.decay, info.offset < a.decay_count()) << info.name;
  ModelConfig other = config;
  other.d_model *= 2;
  Parameters c(other, at::kCPU);
  EXPECT_THROW(load_weights(file, c), UserError);
  fs::remove(file);
}

TEST(Config, RefusesWhatDoesNotFitTogether) {
  EXPECT_THROW(UpperLayer::parse("memroy"), UserError);
  EXPECT_THROW(UpperLayer::parse("memory+window+window"), UserError);
  ModelConfig config;
  config.validate();
  config.upper = {"memory-retrieval"};
  EXPECT_THROW(config.validate(), UserError);
  config = {};
  config.encoder_layers = 0;
  EXPECT_THROW(config.validate(), UserError);
  config = {};
  config.alpha = 0.5;
  config.weights = "stick_breaking";
  EXPECT_THROW(config.validate(), UserError);
  config = {};
  config.memory_kv_heads = 3;
  EXPECT_THROW(config.validate(), UserError);
  EXPECT_THROW(ModelConfig::from_json("{\"widnow\": 3}", "test"), UserError);
  EXPECT_EQ(ModelConfig::from_json(ModelConfig{}.to_json(), "test").to_json(), ModelConfig{}.to_json());
}

TEST(Config, CountsTheTwoGroupModel) { EXPECT_NEAR(static_cast<double>(ModelConfig{}.parameter_count()), 30.98e6, 0.02e6); }

}  // namespace
}  // namespace cairn
