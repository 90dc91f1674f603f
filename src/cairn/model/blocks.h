// The blocks of the network (docs/algorithm.md section 1), shared by training, reading and decoding. x is the residual stream [B,L,d] in
// the parameters' dtype; matrix products and attention run in the weights' compute dtype.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "cairn/model/config.h"
#include "cairn/model/model.h"
#include "cairn/model/weights.h"
#include "cairn/ops/rotary/rotary.h"

namespace cairn {

// What the window attentions of one segment share.
struct SegmentPositions {
  RotaryTable rotary;  // undefined unless positions = rope
  at::Tensor alibi;    // slopes [heads] fp32, undefined unless positions = alibi
};
SegmentPositions segment_positions(const ModelConfig& config, const SegmentStart& start, int64_t length, const at::Tensor& like);

// The residual stream [B,L,d] between two blocks: x, and what the block before has to add to it (undefined: nothing). The sum is made where
// a norm next reads it, by one kernel where there is one; products of few rows (decoding) do it themselves (ops/projection).
struct Residual {
  at::Tensor x, delta;
  // Adds delta to x; returns the norm of the sum in the compute dtype.
  at::Tensor norm(const at::Tensor& weight, at::ScalarType compute);
  // The same, and the products behind it (ops/projection/projection.h).
  at::Tensor norm_linear(const at::Tensor& gain, const at::Tensor& w, const at::Tensor& bias);
  at::Tensor norm_swiglu(const at::Tensor& gain, const at::Tensor& w);
  void add_linear(const at::Tensor& y, const at::Tensor& w);  // adds linear(y, w)
  at::Tensor sum() const;                                     // x + delta
};

// Adds o_proj(window_attention(norm(x))); parameters under `prefix` ("lower.0.attention"). cache null: the text starts with this segment.
void window_attention_block(Residual& x, const Weights& weights, const std::string& prefix, const ModelConfig& config,
                            const SegmentPositions& positions, WindowCache* cache);

// Adds swiglu(norm(x)) to `onto`, which may be x.
void mlp_block(Residual& x, Residual& onto, const Weights& weights, const std::string& prefix, int64_t width);

// One bidirectional layer over rows of S (+1) tokens: x [R,S',d].
void encoder_layer(Residual& x, const Weights& weights, const std::string& prefix, const ModelConfig& config, const RotaryTable& rotary);

// x [B,C*S,d] -> landmarks, keys, values ("chunk" of the algorithm).
ChunkEncoding encode_chunks(const at::Tensor& x, const Weights& weights, const ModelConfig& config);

// The memory attention's own part of a memory layer: norm(x) asks the memory; returns o [B,L,H D] in the compute dtype, what W_o is yet to
// be applied to. `latest` is the last retrieval above, replaced by a retrieval of this layer's own. query_cache: see Model::upper.
struct MemoryContext {
  MemoryAccess* memory = nullptr;
  int64_t first_position = 0;
  Retrieved latest;
  Trace* trace = nullptr;
};
at::Tensor memory_attention_block(Residual& x, const Weights& weights, const std::string& prefix, const UpperLayer& layer,
                                  const ModelConfig& config, const ForwardOptions& options, MemoryContext& context,
                                  WindowCache* query_cache);

}  // namespace cairn
