// Memory attention of the exact-mass warm-up (docs/algorithm.md section 3): a chunk is weighed, wholly or partly, by the attention mass
// that it really has.
//
//   o = hsa(q, k, v, index, weight)        weight[b,t,h,n] = softmax over used slots n of (alpha lse[b,t,h,n] + (1 - alpha)
//   score[b,t,h',n])
//
// lse: hsa's log-sum-exps of the same q and k. Gradients go through them, too. Where kernels of our own take the operands that costs no
// second backward: dL/dlse_n = alpha w_n (<g,o_n> - <g,o>), the second term of which is known beforehand and the first is at hand wherever
// dS_n is made, so that
//   dS_n = P_n w_n (dP_n - (1 - alpha) <g,o_n> - alpha <g,o>)
// (alpha 1: ordinary attention over the selected tokens).
#pragma once

#include "cairn/ops/hsa/gradients.h"
#include "cairn/ops/hsa/hsa.h"

namespace cairn {

struct ExactMass {
  at::Tensor o;       // [B,L,H,D], dtype of q; differentiable in q, k, v and score
  at::Tensor weight;  // [B,L,H,N] fp32 (fp64), detached
  at::Tensor lse;     // the same; 0 in unused slots
};

// q, k, v, index, chunk, off_by_one: as of hsa, the last one of the mixing only; score [B,L,Q,N], Q a divisor of H, fp32 (fp64);
// 0 < alpha <= 1.
ExactMass hsa_exact_mass(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& score,
                         double alpha, int64_t chunk, bool off_by_one = false);

// By hsa, softmax_weights and autograd through both: the reference, given hsa's.
ExactMass hsa_exact_mass_composed(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index,
                                  const at::Tensor& score, double alpha, int64_t chunk, bool off_by_one = false);

// The kernels behind it; operands that hsa_supports takes with weights [B,L,H,N].
struct ExactMassKernels {
  at::Tensor (*weights)(const at::Tensor& lse, const at::Tensor& score, const at::Tensor& index, double alpha) = nullptr;
  // Gradients of q, k and v; weight: <g, o_n> [B,L,H,N].
  HsaGradients (*backward)(const at::Tensor& grad_o, const at::Tensor& o, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& index, const at::Tensor& weight, double alpha, int64_t chunk) = nullptr;
};
bool register_exact_mass_kernels(void (*fill)(ExactMassKernels* table));  // as register_cuda_kernels()

}  // namespace cairn
