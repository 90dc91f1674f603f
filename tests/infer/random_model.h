// Random tiny models over the switches, for tests that compare two ways of computing the same thing.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <string>

#include "cairn/core/random.h"
#include "cairn/model/model.h"

namespace cairn {

// Tensors here are too small for two threads: waking the second costs more than the work.
inline const bool kOneThread = (at::set_num_threads(1), true);

inline ModelConfig random_config(Random& random) {
  const auto pick = [&](std::initializer_list<int64_t> values) {
    return values.begin()[random.below(static_cast<int64_t>(values.size()))];
  };
  ModelConfig c;
  c.vocab = 29;
  c.d_model = 32;
  c.heads = 4;
  c.kv_heads = pick({1, 2, 4});
  c.head_dim = 8;
  c.mlp_width = 48;
  c.window = pick({1, 2, 5, 9});
  c.lower_layers = pick({0, 1, 2, 3});
  c.chunk = pick({1, 3, 4, 8});
  // Chunks that look the same tie, and rounding breaks ties: chunks are long, or their states depend on what was before.
  if (c.chunk == 1 && (c.lower_layers == 0 || c.window < 5)) c.chunk = 4;
  c.encoder_layers = pick({0, 1, 2});
  c.landmark = c.encoder_layers == 0 || random.chance(.4) ? "mean" : "cls";
  c.pre_norm = random.chance(.3);
  c.memory_heads = 4;
  c.memory_kv_heads = pick({1, 2});
  c.retrieval_dim = 16;
  c.retrieval_heads = random.chance(.5) ? c.memory_kv_heads : 1;
  c.landmark_norm = random.chance(.7);
  switch (random.below(6)) {
    case 0:
      c.upper = {"memory"};
      break;
    case 1:
      c.upper = {"memory", "window"};
      break;
    case 2:
      c.upper = {"memory+window", "memory+window"};
      break;
    case 3:
      c.upper = {"window", "memory-mlp", "memory-retrieval", "window"};
      break;
    case 4:
      c.upper = {"memory+window-mlp", "window", "memory", "window"};
      break;
    default:
      c.upper = {"window", "memory", "memory+window-retrieval"};
      break;
  }
  c.top_k = pick({1, 2, 4, 100});
  c.exclude_window = random.chance(.3);
  c.retrieval_stride = random.chance(.3) ? "chunk" : "token";
  c.positions = random.chance(.6) ? "rope" : random.chance(.5) ? "alibi" : "none";
  if (random.chance(.3)) {
    c.alpha = random.chance(.5) ? 1 : .4;
  } else {
    c.weights = random.chance(.5) ? "softmax" : "stick_breaking";
    c.off_by_one = random.chance(.3);
    c.rank_decay = random.chance(.3);
  }
  c.beta = random.chance(.5) ? 0 : random.uniform();
  c.validate();
  return c;
}

// Weights far from zero, so that every part of the network has a say in the logits.
inline std::shared_ptr<const Model> random_model(const ModelConfig& config, uint64_t seed) {
  const at::NoGradGuard no_gradient;
  auto parameters = std::make_shared<Parameters>(config, at::kCPU);
  parameters->initialize(seed);
  parameters->flat().narrow(0, 0, parameters->decay_count()).mul_(9);
  for (const ParameterInfo& info : parameters->infos()) {
    if (info.name.ends_with("rank_decay")) (*parameters)[info.name].fill_(-.3);
  }
  return std::make_shared<Model>(config, parameters);
}

inline at::Tensor random_tokens(Random& random, int64_t batch, int64_t length, int64_t vocab) {
  const at::Tensor tokens = at::empty({batch, length}, at::kLong);
  for (int64_t i = 0; i < batch * length; ++i) tokens.data_ptr<int64_t>()[i] = random.below(vocab);
  return tokens;
}

inline std::string describe(const ModelConfig& c) {
  std::string upper;
  for (const std::string& layer : c.upper) upper += layer + " ";
  return fmt::format(
      "W {} lower {} S {} encoder {} {} G {} Q {} upper [{}] N {} {} off {} decay {} exclude {} stride {} positions {} alpha {} beta {}",
      c.window, c.lower_layers, c.chunk, c.encoder_layers, c.landmark, c.memory_kv_heads, c.retrieval_heads, upper, c.top_k, c.weights,
      c.off_by_one, c.rank_decay, c.exclude_window, c.retrieval_stride, c.positions, c.alpha, c.beta);
}

// Logits of the whole text at once, [B,L,vocab].
inline at::Tensor forward_logits(const Model& model, const at::Tensor& tokens, at::ScalarType compute = at::kFloat,
                                 Trace* trace = nullptr) {
  const at::NoGradGuard no_gradient;
  ForwardOptions options;
  options.alpha = model.config().alpha;
  options.beta = model.config().beta;
  options.top_k = model.config().top_k;
  options.compute = compute;
  const ForwardResult result = model.forward(tokens, options);
  if (trace != nullptr) *trace = result.trace;
  return model.logits(result.hidden);
}

inline double relative_rms(const at::Tensor& a, const at::Tensor& b) {
  const double difference = (a - b).to(at::kDouble).pow(2).mean().item<double>(), size = b.to(at::kDouble).pow(2).mean().item<double>();
  return std::sqrt(difference / (size + 1e-30));
}

}  // namespace cairn
