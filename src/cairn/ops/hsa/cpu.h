// Memory attention on a CPU in chunk order (docs/kernels-cpu.md). fp32 and bf16; no autograd here.
#pragma once

#include "cairn/ops/hsa/gradients.h"
#include "cairn/ops/hsa/hsa.h"
#include "cairn/ops/hsa/shapes.h"

namespace cairn {

HsaOutput hsa_cpu_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight,
                          int64_t chunk, bool off_by_one, bool want_lse);

// grad_o [B,L,H,D]; grad_lse [B,L,H,N] or undefined.
HsaGradients hsa_cpu_backward(const at::Tensor& grad_o, const at::Tensor& grad_lse, const at::Tensor& q, const at::Tensor& k,
                              const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight, int64_t chunk, bool off_by_one);

}  // namespace cairn
