// SwiGLU's middle: silu(gate) * up, element by element. Differentiable; saves its inputs only.
#pragma once

#include <ATen/core/Tensor.h>

namespace cairn {

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
at::Tensor swiglu_reference(const at::Tensor& gate, const at::Tensor& up);

}  // namespace cairn
