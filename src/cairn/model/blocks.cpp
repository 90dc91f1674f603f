#include "cairn/model/blocks.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/split_with_sizes.h>

#include "cairn/core/error.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/projection/projection.h"
#include "cairn/ops/swiglu/swiglu.h"
#include "cairn/ops/window/step.h"
#include "cairn/ops/window/window.h"

namespace cairn {
namespace {

// Queries, keys and values of one attention layer from one product of norm(x).
at::Tensor project_joined(Residual& x, const Weights& weights, const std::string& prefix) {
  at::Tensor bias;
  if (weights.contains(prefix + ".q_proj.bias")) bias = weights.joined(prefix, {".q", ".k", ".v"}, "_proj.bias");
  return x.norm_linear(weights.vector(prefix + ".norm.weight"), weights.joined(prefix, {".q", ".k", ".v"}, "_proj.weight"), bias);
}

// The same taken apart; q and k normed per head and rotated.
QueryKeyValue project(Residual& x, const Weights& weights, const std::string& prefix, const ModelConfig& c, const RotaryTable& rotary) {
  return split_norm_rotate(project_joined(x, weights, prefix), weights.vector(prefix + ".q_norm.weight"),
                           weights.vector(prefix + ".k_norm.weight"), rotary, c.heads, c.kv_heads);
}

void add_output(Residual& x, const at::Tensor& attended, const Weights& weights, const std::string& prefix) {
  x.add_linear(attended.flatten(2), weights.matrix(prefix + ".o_proj.weight"));
}

}  // namespace

at::Tensor Residual::norm(const at::Tensor& weight, at::ScalarType compute) {
  AddNorm both = add_rms_norm(x, delta, weight, compute);
  x = std::move(both.sum);
  delta = at::Tensor();
  return both.y;
}

at::Tensor Residual::norm_linear(const at::Tensor& gain, const at::Tensor& w, const at::Tensor& bias) {
  if (!delta.defined() && !at::GradMode::is_enabled()) return cairn::norm_linear(x, gain, w, bias, w.scalar_type());
  return at::linear(norm(gain, w.scalar_type()), w, bias);
}

at::Tensor Residual::norm_swiglu(const at::Tensor& gain, const at::Tensor& w) {
  if (!delta.defined() && !at::GradMode::is_enabled()) return cairn::norm_swiglu(x, gain, w);
  return swiglu_joint(at::linear(norm(gain, w.scalar_type()), w));
}

void Residual::add_linear(const at::Tensor& y, const at::Tensor& w) {
  x = sum();
  delta = at::Tensor();
  if (linear_add_is_fused(y, w, x)) {
    x = linear_add(y, w, x);
  } else {
    delta = at::linear(y, w);
  }
}

at::Tensor Residual::sum() const { return delta.defined() ? x + delta : x; }

SegmentPositions segment_positions(const ModelConfig& c, const SegmentStart& start, int64_t length, const at::Tensor& like) {
  SegmentPositions positions;
  if (c.positions == "rope") {
    positions.rotary = start.table.cosine.defined()
                           ? start.table
                           : rotary_table(start.first, length, c.head_dim, c.rope_theta, like.device(), like.scalar_type());
  } else if (c.positions == "alibi") {
    // Slopes 2^(-8 (h+1) / H), the geometric row of the ALiBi paper (arXiv 2108.12409).
    const at::Tensor h = at::arange(1, c.heads + 1, at::TensorOptions().dtype(at::kFloat).device(like.device()));
    positions.alibi = at::pow(2.0, h * (-8.0 / static_cast<double>(c.heads)));
  }
  return positions;
}

void window_attention_block(Residual& x, const Weights& weights, const std::string& prefix, const ModelConfig& c,
                            const SegmentPositions& positions, WindowCache* cache) {
  if (cache != nullptr && cache->position.defined()) {
    const at::Tensor attended =
        window_step(project_joined(x, weights, prefix), weights.vector(prefix + ".q_norm.weight"),
                    weights.vector(prefix + ".k_norm.weight"), positions.rotary, {cache->k, cache->v, cache->position}, positions.alibi);
    add_output(x, attended, weights, prefix);
    return;
  }
  QueryKeyValue p = project(x, weights, prefix, c, positions.rotary);
  if (cache != nullptr) {
    if (cache->k.defined()) {
      p.k = at::cat({cache->k, p.k}, 1);
      p.v = at::cat({cache->v, p.v}, 1);
    }
    const int64_t have = p.k.size(1), keep = std::min(have, c.window - 1);
    const at::Tensor k = p.k.narrow(1, have - keep, keep), v = p.v.narrow(1, have - keep, keep);
    cache->k = k.clone();  // a copy, not a view: a view would keep the whole segment alive
    cache->v = v.clone();
  }
  add_output(x, window_attention(p.q, p.k, p.v, c.window, positions.alibi), weights, prefix);
}

void mlp_block(Residual& x, Residual& onto, const Weights& weights, const std::string& prefix, int64_t width) {
  const at::Tensor joined = weights.joined(prefix, {".gate", ".up"}, "_proj.weight");
  CAIRN_CHECK(joined.size(0) == 2 * width, "gate and up of {} numbers, width {}", joined.size(0), width);
  const at::Tensor h = x.norm_swiglu(weights.vector(prefix + ".norm.weight"), joined);
  onto.add_linear(h, weights.matrix(prefix + ".down_proj.weight"));
}

void encoder_layer(Residual& x, const Weights& weights, const std::string& prefix, const ModelConfig& c, const RotaryTable& rotary) {
  const QueryKeyValue p = project(x, weights, prefix + ".attention", c, rotary);
  add_output(x, full_attention(p.q, p.k, p.v), weights, prefix + ".attention");
  mlp_block(x, x, weights, prefix + ".mlp", c.mlp());
}

ChunkEncoding encode_chunks(const at::Tensor& x, const Weights& weights, const ModelConfig& c) {
  const int64_t B = x.size(0), S = c.chunk, C = x.size(1) / S, d = c.d_model, Q = c.retrieval_heads;
  at::Tensor e = x.reshape({B * C, S, d});
  if (c.pre_norm) e = rms_norm(e, weights.vector("chunk.pre_norm.weight"));
  const bool cls = c.landmark == "cls";
  if (cls) e = at::cat({e, weights.vector("chunk.cls").expand({B * C, 1, d})}, 1);
  Residual stream{e, {}};
  if (c.encoder_layers > 0) {
    // Positions 0..S inside the chunk: what an encoder makes of a chunk does not depend on where it stands.
    const RotaryTable rotary = rotary_table(0, e.size(1), c.head_dim, c.rope_theta, x.device(), x.scalar_type());
    for (int64_t i = 0; i < c.encoder_layers; ++i) encoder_layer(stream, weights, "chunk.encoder." + std::to_string(i), c, rotary);
  }
  e = stream.norm(weights.vector("chunk.norm.weight"), weights.compute());
  // Split, as above: the gradients of body and summary become one tensor at once.
  const std::vector<at::Tensor> part = cls ? e.split_with_sizes({S, 1}, 1) : std::vector<at::Tensor>{e};
  const at::Tensor& body = part[0];
  const at::Tensor summary = cls ? part[1].squeeze(1) : body.mean(1);
  ChunkEncoding out;
  at::Tensor landmarks = at::linear(summary, weights.matrix("chunk.landmark_proj.weight"));
  if (c.landmark_norm) landmarks = head_rms_norm(landmarks, weights.vector("chunk.landmark_norm.weight"), Q);
  out.landmarks = landmarks.view({B, C, Q, c.retrieval_dim / Q});
  const int64_t kv_width = c.memory_kv_heads * c.head_dim;
  const std::vector<at::Tensor> kv =
      at::linear(body, weights.joined("chunk.", {"k", "v"}, "_proj.weight")).split_with_sizes({kv_width, kv_width}, -1);
  const auto heads = [&](const at::Tensor& x) { return x.reshape({B, C * S, c.memory_kv_heads, c.head_dim}); };
  out.k = norm_rotate(heads(kv[0]), weights.vector("chunk.k_norm.weight"), {});
  out.v = heads(kv[1]);
  return out;
}

}  // namespace cairn
