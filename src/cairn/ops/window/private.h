// Inside ops/window only.
#pragma once

#include <ATen/core/Tensor.h>

namespace cairn {

// Shapes and dtypes of q [B,L,H,D], k and v [B,M,Hkv,D], M >= L; a violation is a bug.
void check_attention(const char* name, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

}  // namespace cairn
