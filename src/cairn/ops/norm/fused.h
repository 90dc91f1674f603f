// The fused norm with an optional rotation behind it, shared by ops/norm and ops/rotary. Inside ops only.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace cairn {

// Differentiable in x and weight. x [B,L,H,D], fp32 or bf16 (not fp64), weight [D] or [H*D]; cosine and sine fp32 [L, D/2] or both
// undefined. Result contiguous [B,L,H,D] in dtype `out` (fp32 or bf16).
at::Tensor fused_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine, const at::Tensor& sine, at::ScalarType out);
// Whether fused_norm has a path for these; the reference serves the others.
bool fused_norm_serves(const at::Tensor& x, at::ScalarType out);

struct NormForward {
  at::Tensor y;
  at::Tensor scale;  // CUDA through ATen: 1 / rms of each part, for the backward; else undefined
};
NormForward norm_forward_cpu(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine, const at::Tensor& sine,
                             at::ScalarType out);
NormForward norm_forward_cuda(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine, const at::Tensor& sine,
                              at::ScalarType out);
// Gradients of x (its dtype) and weight (its dtype).
std::tuple<at::Tensor, at::Tensor> norm_backward_cpu(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                                                     const at::Tensor& cosine, const at::Tensor& sine);
std::tuple<at::Tensor, at::Tensor> norm_backward_cuda(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                                                      const at::Tensor& cosine, const at::Tensor& sine, const at::Tensor& scale);

}  // namespace cairn
