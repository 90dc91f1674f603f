// Matrix products with what stands directly before and behind them in a layer. Each is a plain sequence of other operators, differentiable
// and good for any device and dtype; on a GPU, for few rows (decoding) of bf16 weights without gradients, it is one kernel, which rounds
// only its result.
//
// x [..., K], gain [K], w [M, K], bias [M] or undefined. Matrix products run in the dtype of w.
#pragma once

#include <ATen/core/Tensor.h>

namespace cairn {

// linear(rms_norm(x, gain), w, bias) [..., M] in dtype `out`. gain undefined: x as it is.
at::Tensor norm_linear(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& w, const at::Tensor& bias, at::ScalarType out);
// silu(first half) * second half of linear(rms_norm(x, gain), w): w [2 M, K] -> [..., M] in the dtype of w.
at::Tensor norm_swiglu(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& w);
// residual + linear(x, w), x in the dtype of w, residual [..., M] in any.
at::Tensor linear_add(const at::Tensor& x, const at::Tensor& w, const at::Tensor& residual);

// Whether linear_add is one kernel for these. Otherwise the sum may as well wait for what reads it.
bool linear_add_is_fused(const at::Tensor& x, const at::Tensor& w, const at::Tensor& residual);

// The same without kernels of our own.
at::Tensor norm_linear_reference(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& w, const at::Tensor& bias,
                                 at::ScalarType out);
at::Tensor norm_swiglu_reference(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& w);
at::Tensor linear_add_reference(const at::Tensor& x, const at::Tensor& w, const at::Tensor& residual);

}  // namespace cairn
