// Memory attention (hierarchical sparse attention, arXiv 2510.17196 Eq. 2; docs/algorithm.md section 1 "Attend"):
// every selected chunk has a softmax of its own, the chunk outputs are mixed with given weights.
//
//   o[b,t,h]   = sum_n weight[b,t,h',n] * softmax_j(q[b,t,h] . k[b, i_n S + j, g] / sqrt(D)) @ v[b, i_n S + j, g]      i_n =
//   index[b,t,g',n] lse[b,t,h,n] = log sum_j exp(q . k_j / sqrt(D))                                       (off_by_one: the sum has a
//   further term 1)
//
// Shapes: q [B,L,H,D]; k, v [B,M,G,D] with M >= C*S (tokens of complete chunks first), H a multiple of G;
//   index int64 [B,L,Gi,N] with Gi = 1 or G: chunk numbers, -1 in unused slots (weight and lse 0); no duplicates in a row;
//   weight [B,L,Hw,N] with Hw = 1, G or H, dtype of q or fp32. L may be 0, C may be 0 (then every index is -1 and o is 0).
// dtypes: q, k, v all fp32, bf16 or fp64 (reference only); accumulation in fp32 (fp64 in fp64). lse is fp32 (fp64).
// Errors: UserError-free; wrong shapes and dtypes are bugs (CAIRN_CHECK). Checked mode (check_index) refuses indices out of range and
// duplicates.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>

namespace cairn {

struct HsaOutput {
  at::Tensor o;    // [B,L,H,D], dtype of q
  at::Tensor lse;  // [B,L,H,N]; only when asked for, else undefined
};

// Differentiable in q, k, v and weight, and (want_lse) through lse. Chooses the fast path of the device and dtype.
HsaOutput hsa(const at::Tensor& q_blhd, const at::Tensor& k_bmgd, const at::Tensor& v_bmgd, const at::Tensor& index_blgn,
              const at::Tensor& weight_blhn, int64_t chunk, bool off_by_one = false, bool want_lse = false);

// The equation in plain tensor operations; autograd through it is the reference gradient. Any device, fp64 too. Memory O(B L H N S).
HsaOutput hsa_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight,
                        int64_t chunk, bool off_by_one = false, bool want_lse = false);

// UserError naming operator, argument and value if an index is outside [-1, chunks) or twice in a row.
void check_index(const at::Tensor& index_blgn, int64_t chunks);

}  // namespace cairn
