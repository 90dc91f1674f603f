// Landmark distillation of whole models: the loss is its definition whether the masses are those of the warm-up's own attention or of an
// attention of their own, and so is its gradient.
#include <ATen/ops/full.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "cairn/model/losses.h"
#include "model/random_model.h"

namespace cairn {
namespace {

// In one formula, from masses by chunk; fp64.
at::Tensor definition(const Trace& trace, const std::vector<at::Tensor>& lse, int64_t chunk) {
  at::Tensor total;
  for (size_t i = 0; i < lse.size(); ++i) {
    const at::Tensor score = trace.retrievals[i].score.select(2, 0);
    const int64_t B = score.size(0), L = score.size(1);
    Visibility v;
    v.chunk = chunk;
    const at::Tensor closed = visible_chunks(L, score.size(2), v, at::kCPU).logical_not();
    const at::Tensor mass = lse[i].masked_fill(closed.unsqueeze(1), -1e30).softmax(-1).mean(2);
    const at::Tensor row = -(mass * score.masked_fill(closed, -1e30).log_softmax(-1)).masked_fill(closed, 0).sum(-1);
    const at::Tensor loss = row.sum() / static_cast<double>(B * (L - chunk));
    total = total.defined() ? total + loss : loss;
  }
  return total;
}

TEST(DistillationLoss, IsItsDefinition) {
  int64_t own = 0, others = 0;
  for (uint64_t seed = 0; seed < 24; ++seed) {
    Random random(seed, 93);
    ModelConfig config = random_config(random);
    config.retrieval_heads = 1, config.retrieval_dim = 6;
    config.weights = "softmax", config.off_by_one = config.rank_decay = false;
    config.alpha = random.chance(0.8) ? random.chance(0.5) ? 1 : 0.4 : 0;
    const auto parameters = random_parameters(config, random, at::kDouble);
    const Model model(config, parameters);
    const at::Tensor tokens = random_tokens(random, 2, 41, config.vocab);
    ForwardOptions options = options_of(config, at::kDouble);
    options.want_mass = true;
    options.top_k = random.chance(0.7) ? 99 : 2;
    parameters->enable_gradients();
    const ForwardResult forward = model.forward(tokens, options);
    std::vector<at::Tensor> masses, scores;
    {
      const at::NoGradGuard no_gradient;  // then always by chunk
      for (const RetrievalTrace& r : model.forward(tokens, options).trace.retrievals) {
        ASSERT_EQ(r.lse_order, MassOrder::kByChunk);
        masses.push_back(r.lse);
      }
    }
    ASSERT_EQ(masses.size(), forward.trace.retrievals.size());
    for (const RetrievalTrace& r : forward.trace.retrievals) {
      const bool expected = config.alpha > 0 && options.top_k == 99 && !config.exclude_window && config.retrieval_stride == "token";
      EXPECT_EQ(r.lse_order == MassOrder::kNearestFirst, expected) << config.to_json();
      ++(expected ? own : others);
      EXPECT_FALSE(r.lse.requires_grad());
      scores.push_back(r.score);
    }
    const at::Tensor loss = distillation_loss(forward.trace, config.chunk, *World::single());
    const at::Tensor exact = definition(forward.trace, masses, config.chunk);
    EXPECT_NEAR(loss.item<double>(), exact.item<double>(), 1e-9 * exact.item<double>()) << config.to_json();
    const auto got = torch::autograd::grad({loss}, scores, {}, /*retain_graph=*/true);
    const auto want = torch::autograd::grad({exact}, scores);
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_LE((got[i] - want[i]).abs().max().item<double>(), 1e-12) << config.to_json();
      EXPECT_GT(want[i].abs().max().item<double>(), 1e-6);
    }
  }
  EXPECT_GT(own, 5);
  EXPECT_GT(others, 5);
}

// In fp32 (the way training goes) as in fp64.
TEST(DistillationLoss, SinglePrecision) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Random random(seed, 94);
    ModelConfig config = random_config(random);
    config.retrieval_heads = 1, config.retrieval_dim = 6;
    config.weights = "softmax", config.off_by_one = config.rank_decay = false;
    config.alpha = 1;
    const auto run = [&](at::ScalarType type) {
      Random same(seed, 95);
      const auto parameters = random_parameters(config, same, type);
      const Model model(config, parameters);
      ForwardOptions options = options_of(config, type);
      options.want_mass = true, options.top_k = 99;
      parameters->enable_gradients();
      const at::Tensor loss =
          distillation_loss(model.forward(random_tokens(same, 2, 41, config.vocab), options).trace, config.chunk, *World::single());
      loss.backward();
      return std::pair(loss.item<double>(), parameters->flat_gradient().to(at::kDouble));
    };
    const auto [loss, gradient] = run(at::kFloat);
    const auto [exact, exact_gradient] = run(at::kDouble);
    EXPECT_NEAR(loss, exact, 1e-4 * exact) << config.to_json();
    EXPECT_LT(relative_rms(gradient, exact_gradient), 1e-3) << config.to_json();
  }
}

// A text of less than a chunk has nothing to distil: 0, not 0 / 0.
TEST(DistillationLoss, NothingVisible) {
  Trace trace;
  RetrievalTrace r;
  r.score = at::full({2, 5, 1, 1}, 3.0, at::kFloat).requires_grad_(true);
  r.lse = at::full({2, 5, 4, 1}, 2.0, at::kFloat);
  trace.retrievals.push_back(r);
  const at::Tensor loss = distillation_loss(trace, 8, *World::single());
  EXPECT_EQ(loss.item<double>(), 0);
  EXPECT_EQ(torch::autograd::grad({loss}, {trace.retrievals[0].score})[0].abs().max().item<double>(), 0);
}

}  // namespace
}  // namespace cairn
