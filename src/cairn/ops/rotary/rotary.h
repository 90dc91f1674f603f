// Rotary positions, split-half form, fused with the per-head RMSNorm of queries and keys (docs/algorithm.md section 1, "window_layer").
// Angles: int64 position times frequency theta^(-2i/D) in fp64, reduced mod 2 pi, then fp32 cos and sin: exact at any position.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace cairn {

struct RotaryTable {
  at::Tensor cosine, sine;  // fp32 [L, D/2] (fp64 when made for fp64)
};
// Positions first .. first + length.
RotaryTable rotary_table(int64_t first, int64_t length, int64_t head_dim, double theta, at::Device device, at::ScalarType dtype);

// The same from a first position that is on the device (int64, no dimension): for recorded work, where it changes from run to run.
RotaryTable rotary_table(const at::Tensor& first, int64_t length, int64_t head_dim, double theta, at::ScalarType dtype);

// x [B,L,H,D], weight [D] -> rotate(rms_norm(x) * weight); table undefined: norm only. Result has x's dtype. Differentiable in x and
// weight.
at::Tensor norm_rotate(const at::Tensor& x, const at::Tensor& weight, const RotaryTable& table);
// Queries, keys and values [B,L,H|Hkv,D] out of one product [B,L,(H + 2 Hkv) D], q and k by norm_rotate. On a GPU their gradients are
// written into one tensor as they are made.
struct QueryKeyValue {
  at::Tensor q, k, v;
};
QueryKeyValue split_norm_rotate(const at::Tensor& joined, const at::Tensor& q_gain, const at::Tensor& k_gain, const RotaryTable& table,
                                int64_t heads, int64_t kv_heads);

at::Tensor norm_rotate_reference(const at::Tensor& x, const at::Tensor& weight, const RotaryTable& table);

}  // namespace cairn
