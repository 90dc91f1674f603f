// SwiGLU's middle: silu(gate) * up, element by element. Differentiable; saves its inputs only.
#pragma once

#include <ATen/core/Tensor.h>

namespace cairn {

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
// Of one joint projection [..., 2 w] = (gate, up) -> [..., w]; its gradient is one tensor again.
at::Tensor swiglu(const at::Tensor& both);
at::Tensor swiglu_reference(const at::Tensor& gate, const at::Tensor& up);

}  // namespace cairn
