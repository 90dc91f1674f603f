// SwiGLU's middle: silu(gate) * up, element by element. Differentiable; saves its inputs only.
#pragma once

#include <ATen/core/Tensor.h>

namespace cairn {

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
// Of the halves of `both` [..., 2 width], as a joint projection makes them: silu(first) * second. The gradient comes as one tensor, without
// the zeros and sums of two slices.
at::Tensor swiglu_joint(const at::Tensor& both);
at::Tensor swiglu_reference(const at::Tensor& gate, const at::Tensor& up);

}  // namespace cairn
