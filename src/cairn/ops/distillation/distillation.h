// Landmark distillation (docs/algorithm.md section 3), row by row: how far the softmax of a token's landmark scores is from the attention
// mass that its chunks really have.
//
//   out[b,t] = - sum over visible i of p[i] log softmax_i(score[b,t])     p[i] = mean over heads h of softmax_i(lse[b,t,h])
//
// Visible are the v = min(floor(t / S), C) first chunks, (i+1) S <= t; both softmaxes are over these. What stands at other places has no
// part in anything and may be anything. Rows without a visible chunk give 0. p is the target: no gradient goes through lse. A head all of
// whose visible masses are -inf (no mass at all) has no say; a chunk of mass 0 adds 0, whatever its score.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace cairn {

// Where the log mass of row t's visible chunk i stands.
enum class MassOrder {
  kByChunk,      // lse[b,t,h,i]
  kNearestFirst  // lse[b,t,h,v-1-i]: in the slots of a selection of all visible chunks (ops/select/select.h)
};

// lse [B,L,H,C] log masses of chunks a head, score [B,L,C], both fp32 or both fp64, any strides; H >= 1, S = chunk >= 1; C and L may be 0.
// Result [B,L], their dtype; differentiable (once) in score. Sums have a fixed order: the same bits again. fp64 takes the reference.
at::Tensor landmark_distillation(const at::Tensor& lse, const at::Tensor& score, int64_t chunk, MassOrder order = MassOrder::kByChunk);

// The equation in plain tensor operations; autograd through it is the reference gradient.
at::Tensor landmark_distillation_reference(const at::Tensor& lse, const at::Tensor& score, int64_t chunk,
                                           MassOrder order = MassOrder::kByChunk);

}  // namespace cairn
