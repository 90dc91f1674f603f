// SwiGLU on a GPU: checks and launches. The caller brings [rows, width] views.
#include <algorithm>

#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/swiglu/launch.h"

namespace cairn {
namespace {

constexpr int64_t kAlignment = 16, kEight = 8;

bool fits(const at::Tensor& x) {
  return x.dim() == 2 && (x.size(1) == 1 || x.stride(1) == 1) && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % kAlignment == 0 &&
         (x.size(0) <= 1 || x.stride(0) * x.element_size() % kAlignment == 0);
}

bool supports(const at::Tensor& gate, const at::Tensor& up) {
  return runs_kernels(gate) && (gate.scalar_type() == at::kFloat || gate.scalar_type() == at::kBFloat16) && fits(gate) && fits(up) &&
         gate.size(1) % kEight == 0;
}

swiglu_cuda::Params params_of(const at::Tensor& gate, const at::Tensor& up) {
  swiglu_cuda::Params p = {};
  p.gate = gate.const_data_ptr(), p.up = up.const_data_ptr();
  p.gate_stride = gate.stride(0), p.up_stride = up.stride(0);
  p.rows = gate.size(0), p.width = gate.size(1);
  p.bf16 = gate.scalar_type() == at::kBFloat16;
  constexpr int64_t kThreads = 256, kBlocks = 16;  // at most so many a multiprocessor
  p.blocks = std::clamp<int64_t>((p.rows * p.width / kEight + kThreads - 1) / kThreads, 1, kBlocks * multiprocessors(gate));
  return p;
}

void forward(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& y) {
  const c10::cuda::CUDAGuard guard(gate.device());
  swiglu_cuda::Params p = params_of(gate, up);
  p.y = y.mutable_data_ptr();
  check_launch(launch_forward(p, current_stream()));
}

void backward(const at::Tensor& grad, const at::Tensor& gate, const at::Tensor& up, const at::Tensor& grad_gate,
              const at::Tensor& grad_up) {
  const c10::cuda::CUDAGuard guard(gate.device());
  swiglu_cuda::Params p = params_of(gate, up);
  const at::Tensor d = reinterpret_cast<uintptr_t>(grad.const_data_ptr()) % kAlignment == 0 ? grad : grad.clone();
  p.grad = d.const_data_ptr();
  p.grad_gate = grad_gate.mutable_data_ptr(), p.grad_up = grad_up.mutable_data_ptr();
  p.grad_gate_stride = grad_gate.stride(0), p.grad_up_stride = grad_up.stride(0);
  check_launch(launch_backward(p, current_stream()));
}

const bool registered = register_cuda_kernels([](CudaKernels* table) {
  table->swiglu_supports = supports;
  table->swiglu_forward = forward;
  table->swiglu_backward = backward;
});

}  // namespace
}  // namespace cairn
