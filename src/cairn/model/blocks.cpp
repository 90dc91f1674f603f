#include "cairn/model/blocks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/split_with_sizes.h>

#include "cairn/core/error.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/projection/projection.h"
#include "cairn/ops/window/step.h"
#include "cairn/ops/window/window.h"

namespace cairn {
namespace {

// Queries, keys and values of one attention layer from one product of norm(x).
at::Tensor project_joined(const at::Tensor& x, const Weights& weights, const std::string& prefix) {
  at::Tensor bias;
  if (weights.contains(prefix + ".q_proj.bias")) bias = weights.joined(prefix, {".q", ".k", ".v"}, "_proj.bias");
  return norm_linear(x, weights.vector(prefix + ".norm.weight"), weights.joined(prefix, {".q", ".k", ".v"}, "_proj.weight"), bias,
                     weights.compute());
}

// The same taken apart; q and k normed per head and rotated.
struct Projected {
  at::Tensor q, k, v;  // [B,L,H|Hkv,D]
};

Projected project(const at::Tensor& x, const Weights& weights, const std::string& prefix, const ModelConfig& c, const RotaryTable& rotary) {
  const at::Tensor joined = project_joined(x, weights, prefix);
  const int64_t B = x.size(0), L = x.size(1), q_width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
  // Split, not narrowed: the gradients of the parts then become one tensor at once, without zeros and sums.
  const std::vector<at::Tensor> part = joined.split_with_sizes({q_width, kv_width, kv_width}, -1);
  const auto heads = [&](const at::Tensor& x) { return x.view({B, L, x.size(-1) / c.head_dim, c.head_dim}); };
  return {norm_rotate(heads(part[0]), weights.vector(prefix + ".q_norm.weight"), rotary),
          norm_rotate(heads(part[1]), weights.vector(prefix + ".k_norm.weight"), rotary), heads(part[2])};
}

// x + W_o attended.
at::Tensor add_output(const at::Tensor& x, const at::Tensor& attended, const Weights& weights, const std::string& prefix) {
  return linear_add(attended.flatten(2), weights.matrix(prefix + ".o_proj.weight"), x);
}

}  // namespace

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

at::Tensor window_attention_block(const at::Tensor& x, const Weights& weights, const std::string& prefix, const ModelConfig& c,
                                  const SegmentPositions& positions, WindowCache* cache) {
  if (cache != nullptr && cache->position.defined()) {
    const at::Tensor attended =
        window_step(project_joined(x, weights, prefix), weights.vector(prefix + ".q_norm.weight"),
                    weights.vector(prefix + ".k_norm.weight"), positions.rotary, {cache->k, cache->v, cache->position}, positions.alibi);
    return add_output(x, attended, weights, prefix);
  }
  Projected p = project(x, weights, prefix, c, positions.rotary);
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
  return add_output(x, window_attention(p.q, p.k, p.v, c.window, positions.alibi), weights, prefix);
}

at::Tensor mlp_block(const at::Tensor& x, const at::Tensor& residual, const Weights& weights, const std::string& prefix, int64_t width) {
  const at::Tensor joined = weights.joined(prefix, {".gate", ".up"}, "_proj.weight");
  CAIRN_CHECK(joined.size(0) == 2 * width, "gate and up of {} numbers, width {}", joined.size(0), width);
  return linear_add(norm_swiglu(x, weights.vector(prefix + ".norm.weight"), joined), weights.matrix(prefix + ".down_proj.weight"),
                    residual);
}

at::Tensor encoder_layer(const at::Tensor& x, const Weights& weights, const std::string& prefix, const ModelConfig& c,
                         const RotaryTable& rotary) {
  const Projected p = project(x, weights, prefix + ".attention", c, rotary);
  const at::Tensor a = add_output(x, full_attention(p.q, p.k, p.v), weights, prefix + ".attention");
  return mlp_block(a, a, weights, prefix + ".mlp", c.mlp());
}

ChunkEncoding encode_chunks(const at::Tensor& x, const Weights& weights, const ModelConfig& c) {
  const int64_t B = x.size(0), S = c.chunk, C = x.size(1) / S, d = c.d_model, Q = c.retrieval_heads;
  at::Tensor e = x.reshape({B * C, S, d});
  if (c.pre_norm) e = rms_norm(e, weights.vector("chunk.pre_norm.weight"));
  const bool cls = c.landmark == "cls";
  if (cls) e = at::cat({e, weights.vector("chunk.cls").expand({B * C, 1, d})}, 1);
  if (c.encoder_layers > 0) {
    // Positions 0..S inside the chunk: what an encoder makes of a chunk does not depend on where it stands.
    const RotaryTable rotary = rotary_table(0, e.size(1), c.head_dim, c.rope_theta, x.device(), x.scalar_type());
    for (int64_t i = 0; i < c.encoder_layers; ++i) e = encoder_layer(e, weights, "chunk.encoder." + std::to_string(i), c, rotary);
  }
  e = rms_norm(e, weights.vector("chunk.norm.weight"), weights.compute());
  const at::Tensor body = e.narrow(1, 0, S);
  const at::Tensor summary = cls ? e.select(1, S) : body.mean(1);
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
