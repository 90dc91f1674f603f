// Memory attention and its gradients as two plain functions, for callers that build the graph of autograd themselves (pytorch/). Contract,
// shapes and dtypes: hsa.h; fp64 too. Neither records anything for autograd.
#pragma once

#include "cairn/ops/hsa/gradients.h"
#include "cairn/ops/hsa/hsa.h"

namespace cairn {

// Where no kernel of ours takes a case on a GPU, an index beyond the chunks counts as an unused slot, as it does in the kernels: it must
// not become an access outside a tensor, after which the GPU refuses all further work.
HsaOutput hsa_forward(const at::Tensor& q_blhd, const at::Tensor& k_bmgd, const at::Tensor& v_bmgd, const at::Tensor& index_blgn,
                      const at::Tensor& weight_blhn, int64_t chunk, bool off_by_one, bool want_lse);

// grad_o [B,L,H,D]; grad_lse [B,L,H,N] or undefined. Needs nothing of the forward but its inputs: each chunk's softmax is made again.
HsaGradients hsa_backward(const at::Tensor& grad_o, const at::Tensor& grad_lse, const at::Tensor& q, const at::Tensor& k,
                          const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight, int64_t chunk, bool off_by_one);

// The equations of docs/algorithm.md section 2 in plain tensor operations: what hsa_backward() does where hsa_reference() is the forward.
HsaGradients hsa_reference_backward(const at::Tensor& grad_o, const at::Tensor& grad_lse, const at::Tensor& q, const at::Tensor& k,
                                    const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight, int64_t chunk, bool off_by_one);

}  // namespace cairn
