// Memory attention on a GPU out of ATen's own operators, no kernel of ours. Two ways:
//
//   pairs   each (token, chunk) pair is an ordinary complete attention, so the pairs are sorted by chunk and handed to the variable-length
//           flash attention; bf16, no lse, no off-by-one. Cost and memory follow the number of pairs.
//   dense   products with all chunks, weights 0 where not selected; fp32 or bf16, lse with gradient, off-by-one. For training lengths.
//
// Both work through sequences (and rows) in blocks, so that memory is bounded, and need no statistics of the forward. Nothing here waits
// for the GPU.
#pragma once

#include <ATen/core/Tensor.h>

#include "cairn/ops/hsa/gradients.h"
#include "cairn/ops/hsa/hsa.h"

namespace cairn {

// Variable-length attention: q [P,h,D]; k, v [T,hk,D]; part i holds rows cu_q[i] .. cu_q[i+1] (int32) of q against rows cu_k[i] ..
// cu_k[i+1] of k and v. Rows of q from cu_q[last] on belong to no part: what comes out for them is undefined.
struct VarlenResult {
  at::Tensor o;    // [P,h,D]
  at::Tensor lse;  // for the backward only
  at::Tensor rng_state, unused;
};
struct VarlenEngine {
  VarlenResult (*forward)(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& cu_q, const at::Tensor& cu_k,
                          int64_t max_q, int64_t max_k);
  // -> dq, dk, dv
  std::tuple<at::Tensor, at::Tensor, at::Tensor> (*backward)(const at::Tensor& grad_o, const at::Tensor& q, const at::Tensor& k,
                                                             const at::Tensor& v, const VarlenResult& saved, const at::Tensor& cu_q,
                                                             const at::Tensor& cu_k, int64_t max_q, int64_t max_k);
};
extern const VarlenEngine kFlashEngine;  // ATen's flash attention

inline constexpr int64_t kMostParts = 65535;  // the limit of a grid's second dimension

// Numbers that one tensor of a block may hold; tests make it small.
struct BlockLimit {
  int64_t elements = int64_t{1} << 27;
};

at::Tensor hsa_pairs_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index,
                             const at::Tensor& weight, int64_t chunk, const VarlenEngine& engine = kFlashEngine, BlockLimit limit = {});
HsaGradients hsa_pairs_backward(const at::Tensor& grad_o, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                const at::Tensor& index, const at::Tensor& weight, int64_t chunk, const VarlenEngine& engine = kFlashEngine,
                                BlockLimit limit = {});

HsaOutput hsa_dense_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index,
                            const at::Tensor& weight, int64_t chunk, bool off_by_one, bool want_lse, BlockLimit limit = {});
HsaGradients hsa_dense_backward(const at::Tensor& grad_o, const at::Tensor& grad_lse, const at::Tensor& q, const at::Tensor& k,
                                const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight, int64_t chunk, bool off_by_one,
                                BlockLimit limit = {});

}  // namespace cairn
