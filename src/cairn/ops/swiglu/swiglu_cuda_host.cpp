// Checks and stream of the SwiGLU kernels.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/swiglu/launch.h"

namespace cairn {
namespace {

constexpr int64_t kMostNumbers = int64_t{1} << 40;  // a grid's 2^31 blocks of 1,024 numbers, with room to spare

bool supports(const at::Tensor& both) {
  return runs_kernels(both) && (both.scalar_type() == at::kFloat || both.scalar_type() == at::kBFloat16) && both.is_contiguous() &&
         both.size(-1) % 8 == 0 && both.numel() > 0 && both.numel() <= kMostNumbers &&
         reinterpret_cast<uintptr_t>(both.const_data_ptr()) % 16 == 0;
}

JointSwiglu arguments(const at::Tensor& both) {
  JointSwiglu a;
  a.both = both.const_data_ptr();
  a.width = both.size(-1) / 2;
  a.rows = both.numel() / both.size(-1);
  a.bf16 = both.scalar_type() == at::kBFloat16;
  return a;
}

at::Tensor forward(const at::Tensor& both) {
  const c10::cuda::CUDAGuard guard(both.device());
  std::vector<int64_t> sizes(both.sizes().begin(), both.sizes().end());
  sizes.back() /= 2;
  at::Tensor y = at::empty(sizes, both.options());
  JointSwiglu a = arguments(both);
  a.y = y.mutable_data_ptr();
  check_launch(launch_swiglu_forward(a, current_stream()));
  return y;
}

at::Tensor backward(const at::Tensor& grad, const at::Tensor& both) {
  const c10::cuda::CUDAGuard guard(both.device());
  const at::Tensor g = aligned(grad.to(both.scalar_type()).contiguous());
  at::Tensor d = at::empty_like(both);
  JointSwiglu a = arguments(both);
  a.grad = g.const_data_ptr();
  a.y = d.mutable_data_ptr();
  check_launch(launch_swiglu_backward(a, current_stream()));
  return d;
}

[[maybe_unused]] const bool registered = register_cuda_kernels([](CudaKernels* table) {
  table->swiglu_supports = supports;
  table->swiglu_forward = forward;
  table->swiglu_backward = backward;
});

}  // namespace
}  // namespace cairn
