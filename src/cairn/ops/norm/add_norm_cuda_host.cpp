// The residual sum and its norm on a GPU: checks, workspace, launches.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/norm/launch.h"

namespace cairn {
namespace {

constexpr int64_t kRowsOfABlock = 8;             // a warp a row
constexpr int64_t kForward = 16, kBackward = 2;  // blocks a multiprocessor

bool is_aligned(const at::Tensor& x) { return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0; }
at::Tensor readable(const at::Tensor& x) { return aligned(x.contiguous()); }

bool supports(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& weight, at::ScalarType out) {
  const auto is_type = [](const at::Tensor& t) { return t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16; };
  return runs_kernels(x) && is_type(x) && delta.scalar_type() == at::kBFloat16 && out == at::kBFloat16 && is_type(weight) &&
         delta.device() == x.device() && weight.device() == x.device() && weight.stride(0) == 1 && is_aligned(weight) &&
         x.size(-1) % norm_cuda::kAddWidthStep == 0 && x.size(-1) <= norm_cuda::kMostWidth;
}

norm_cuda::AddParams params_of(const at::Tensor& x, const at::Tensor& weight) {
  norm_cuda::AddParams p = {};
  p.x = x.const_data_ptr();
  p.weight = weight.const_data_ptr();
  p.width = x.size(-1), p.rows = x.numel() / p.width;
  p.x_bf16 = x.scalar_type() == at::kBFloat16;
  p.weight_bf16 = weight.scalar_type() == at::kBFloat16;
  return p;
}

int64_t blocks_of(const norm_cuda::AddParams& p, const at::Tensor& x, int64_t most) {
  return std::clamp<int64_t>((p.rows + kRowsOfABlock - 1) / kRowsOfABlock, 1, most * multiprocessors(x));
}

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& x_in, const at::Tensor& delta_in, const at::Tensor& weight) {
  const c10::cuda::CUDAGuard guard(x_in.device());
  const at::Tensor x = readable(x_in), delta = readable(delta_in);
  const at::Tensor sum = at::empty(x.sizes(), x.options()), y = at::empty(x.sizes(), delta.options());
  if (x.numel() == 0) return {sum, y};
  norm_cuda::AddParams p = params_of(x, weight);
  p.delta = delta.const_data_ptr();
  p.sum = sum.mutable_data_ptr();
  p.y = y.mutable_data_ptr();
  p.blocks = blocks_of(p, x, kForward);
  check_launch(launch_add_forward(p, current_stream()));
  return {sum, y};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(const at::Tensor& grad_sum_in, const at::Tensor& grad_in, const at::Tensor& sum,
                                                        const at::Tensor& weight) {
  const c10::cuda::CUDAGuard guard(sum.device());
  CAIRN_CHECK(sum.scalar_type() == at::kFloat && sum.is_contiguous() && grad_in.scalar_type() == at::kBFloat16,
              "add_rms_norm: the backward takes fp32 sums and bf16 gradients");
  const at::Tensor grad = readable(grad_in), grad_sum = grad_sum_in.defined() ? readable(grad_sum_in) : grad_sum_in;
  const at::Tensor dx = at::empty(sum.sizes(), sum.options()), ddelta = at::empty(sum.sizes(), grad.options());
  if (sum.numel() == 0) return {dx, ddelta, at::zeros_like(weight)};
  norm_cuda::AddParams p = params_of(sum, weight);
  p.grad = static_cast<const uint16_t*>(grad.const_data_ptr());
  p.grad_sum = grad_sum.defined() ? grad_sum.const_data_ptr<float>() : nullptr;
  p.grad_x = dx.mutable_data_ptr<float>();
  p.grad_delta = ddelta.mutable_data_ptr();
  p.blocks = blocks_of(p, sum, kBackward);
  const at::Tensor parts = at::empty({p.blocks, p.width}, sum.options());
  p.grad_weight = parts.mutable_data_ptr<float>();
  check_launch(launch_add_backward(p, current_stream()));
  const at::Tensor grad_weight = at::empty({p.width}, parts.options());
  check_launch(norm_cuda::launch_column_sums(parts.const_data_ptr<float>(), p.blocks, p.width, grad_weight.mutable_data_ptr<float>(),
                                             current_stream()));
  return {dx, ddelta, grad_weight.to(weight.scalar_type())};
}

const bool registered = register_cuda_kernels([](CudaKernels* table) {
  table->add_norm_supports = supports;
  table->add_norm_forward = forward;
  table->add_norm_backward = backward;
});

}  // namespace
}  // namespace cairn
