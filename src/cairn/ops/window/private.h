// Inside ops/window only.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>

namespace cairn {

// Shapes and dtypes of q [B,L,H,D], k and v [B,M,Hkv,D], M >= L; a violation is a bug.
void check_attention(const char* name, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// window = 0 stands for "every query sees every key" (full_attention) in all of these; slopes may be undefined.
at::Tensor band_forward_cpu(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window, const at::Tensor& slopes);
std::tuple<at::Tensor, at::Tensor, at::Tensor> band_backward_cpu(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                                                 const at::Tensor& v, int64_t window, const at::Tensor& slopes);

// Flash attention of ATen: 16-bit numbers on a GPU, no ALiBi. Differentiable.
bool flash_serves(const at::Tensor& q, const at::Tensor& slopes);
at::Tensor flash_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window);

// The reference on blocks of queries and their keys, so that memory is O(block * (block + window)) for each head. Differentiable, any
// device.
at::Tensor window_attention_blocks(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window, const at::Tensor& slopes);

}  // namespace cairn
