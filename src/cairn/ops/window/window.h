// Window attention and bidirectional attention inside short rows (docs/algorithm.md section 1, "window_layer" and "chunk").
//
//   window_attention:  o[b,t,h] = softmax over keys j in (p-W, p] of q[b,t,h] . k[b,j,g] / sqrt(D) - slope_h (p - j), p = t + (M - L)
//     q [B,L,H,D], k and v [B,M,Hkv,D], M >= L: the last L keys belong to the queries, the M - L before are history. W counts the token
//     itself. alibi: slopes [H] fp32, or undefined.
//   full_attention:    no mask; q, k, v [B,L,H|Hkv,D], L <= a few hundred (the chunk encoder).
// dtypes fp32, bf16; fp64 takes the reference. Differentiable. H a multiple of Hkv.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace cairn {

at::Tensor window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window,
                            const at::Tensor& alibi_slopes = {});
at::Tensor window_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window,
                                      const at::Tensor& alibi_slopes = {});
at::Tensor full_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);
at::Tensor full_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

}  // namespace cairn
