// Small random models for property tests: every switch of the configuration drawn at random, weights large enough that every part matters.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <memory>

#include "cairn/core/random.h"
#include "cairn/model/model.h"

namespace cairn {

inline int64_t pick(Random& random, std::initializer_list<int64_t> values) {
  return *(values.begin() + random.below(static_cast<int64_t>(values.size())));
}

inline ModelConfig random_config(Random& random) {
  ModelConfig c;
  c.vocab = 37;
  c.d_model = 16;
  c.kv_heads = pick(random, {1, 2});
  c.heads = c.kv_heads * pick(random, {1, 2});
  c.head_dim = 8;
  c.mlp_width = 24;
  c.window = 1 + random.below(12);
  c.lower_layers = random.below(3);
  c.chunk = pick(random, {4, 8});
  c.landmark = random.chance(0.7) ? "cls" : "mean";
  c.encoder_layers = c.landmark == "cls" ? 1 + random.below(2) : random.below(2);
  c.pre_norm = random.chance(0.3);
  c.memory_kv_heads = pick(random, {1, 2});
  c.memory_heads = c.memory_kv_heads * pick(random, {1, 2});
  c.retrieval_heads = random.chance(0.5) ? 1 : c.memory_kv_heads;
  c.retrieval_dim = c.retrieval_heads * 6;
  c.landmark_norm = random.chance(0.7);
  c.top_k = 1 + random.below(4);
  c.weights = random.chance(0.7) ? "softmax" : "stick_breaking";
  c.off_by_one = random.chance(0.3);
  c.rank_decay = random.chance(0.3);
  c.exclude_window = random.chance(0.3);
  c.retrieval_stride = random.chance(0.25) ? "chunk" : "token";
  c.positions = random.chance(0.7) ? "rope" : random.chance(0.5) ? "alibi" : "none";
  const std::vector<std::vector<std::string>> uppers = {{"memory", "window"},
                                                        {"memory", "window", "memory", "window"},
                                                        {"memory+window", "memory+window"},
                                                        {"memory-mlp", "window", "memory-mlp-retrieval", "window"},
                                                        {"window", "memory"}};
  c.upper = uppers[random.below(static_cast<int64_t>(uppers.size()))];
  c.beta = random.chance(0.5) ? 0 : random.uniform();
  c.validate();
  return c;
}

// Weights N(0, 0.3), gains near 1.
inline std::shared_ptr<Parameters> random_parameters(const ModelConfig& config, Random& random, at::ScalarType dtype = at::kFloat) {
  auto parameters = std::make_shared<Parameters>(config, at::kCPU, dtype);
  for (const ParameterInfo& info : parameters->infos()) {
    const at::Tensor& tensor = (*parameters)[info.name];
    at::Tensor host = at::empty(tensor.sizes(), at::kDouble);
    for (int64_t i = 0; i < host.numel(); ++i) {
      const double n = random.normal();
      host.data_ptr<double>()[i] = info.name.ends_with("norm.weight") ? 1 + 0.1 * n : 0.3 * n;
    }
    tensor.copy_(host);
  }
  return parameters;
}

inline at::Tensor random_tokens(Random& random, int64_t batch, int64_t length, int64_t vocab) {
  at::Tensor tokens = at::empty({batch, length}, at::kLong);
  for (int64_t i = 0; i < tokens.numel(); ++i) tokens.data_ptr<int64_t>()[i] = random.below(vocab);
  return tokens;
}

inline ForwardOptions options_of(const ModelConfig& config, at::ScalarType compute = at::kFloat) {
  ForwardOptions options;
  options.alpha = config.alpha;
  options.beta = config.beta;
  options.top_k = config.top_k;
  options.compute = compute;
  return options;
}

inline double relative_rms(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  return ((x - y).pow(2).mean().sqrt() / (y.pow(2).mean().sqrt() + 1e-12)).item<double>();
}

}  // namespace cairn
