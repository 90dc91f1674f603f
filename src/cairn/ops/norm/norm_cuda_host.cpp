// RMSNorm and rotation on a GPU in one kernel each way: checks, workspace, launches.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <limits>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/hopper.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/norm/launch.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/step/kernels.h"

namespace cairn {
namespace {

static_assert(kNormEps == 1e-6);
constexpr int64_t kBlocks = 4;  // a multiprocessor
constexpr int64_t kAlignment = 16;

bool is_type(at::ScalarType type) { return type == at::kFloat || type == at::kBFloat16; }
bool is_aligned(const at::Tensor& x) { return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % kAlignment == 0; }

// As the kernels read it: a copy only of what has odd strides.
at::Tensor readable(const at::Tensor& x) {
  bool fits = x.stride(3) == 1 && is_aligned(x);
  for (int64_t d = 0; d < 3; ++d) fits = fits && (x.size(d) <= 1 || x.stride(d) * x.element_size() % kAlignment == 0);
  return fits ? x : x.contiguous();
}

bool supports(const at::Tensor& x, const at::Tensor& weight, at::ScalarType out) {
  return runs_kernels(x) && x.dim() == 4 && is_type(x.scalar_type()) && is_type(out) && is_type(weight.scalar_type()) &&
         weight.device() == x.device() && weight.numel() == x.size(3) && weight.stride(0) == 1 && is_aligned(weight) &&
         x.size(3) % norm_cuda::kWidthStep == 0 && x.size(3) >= norm_cuda::kWidthStep && x.size(3) <= norm_cuda::kMostWidth &&
         x.numel() / x.size(3) < std::numeric_limits<int32_t>::max();
}

norm_cuda::Params params_of(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine, const at::Tensor& sine,
                            at::ScalarType out) {
  norm_cuda::Params p = {};
  p.x = x.const_data_ptr();
  p.x_batch_stride = x.stride(0), p.x_row_stride = x.stride(1), p.x_head_stride = x.stride(2);
  p.weight = weight.const_data_ptr();
  if (cosine.defined()) {
    CAIRN_CHECK(cosine.scalar_type() == at::kFloat && cosine.is_contiguous() && sine.scalar_type() == at::kFloat && sine.is_contiguous() &&
                    cosine.device() == x.device() && is_aligned(cosine) && is_aligned(sine),
                "norm: tables of angles are contiguous fp32 on the device of x");
    p.cosine = cosine.const_data_ptr<float>();
    p.sine = sine.const_data_ptr<float>();
  }
  p.rows = x.numel() / x.size(3), p.length = x.size(1), p.heads = x.size(2), p.width = x.size(3);
  p.x_bf16 = x.scalar_type() == at::kBFloat16;
  p.weight_bf16 = weight.scalar_type() == at::kBFloat16;
  p.y_bf16 = out == at::kBFloat16;
  return p;
}

at::Tensor forward(const at::Tensor& x_in, const at::Tensor& weight, const at::Tensor& cosine, const at::Tensor& sine, at::ScalarType out) {
  const c10::cuda::CUDAGuard guard(x_in.device());
  const at::Tensor x = readable(x_in), y = at::empty(x.sizes(), x.options().dtype(out));
  if (y.numel() == 0) return y;
  norm_cuda::Params p = params_of(x, weight, cosine, sine, out);
  p.y = y.mutable_data_ptr();
  constexpr int64_t kNumbersOfABlock = 4096;  // a thread has 16
  p.blocks = std::clamp<int64_t>(x.numel() / kNumbersOfABlock, 1, 4 * kBlocks * multiprocessors(x));
  p.ahead = StepRecording::runs_ahead() && runs_hopper(x);
  check_launch(launch_forward(p, current_stream()));
  return y;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad_in, const at::Tensor& x_in, const at::Tensor& weight,
                                            const at::Tensor& cosine, const at::Tensor& sine, const at::Tensor& into) {
  const c10::cuda::CUDAGuard guard(x_in.device());
  const at::Tensor x = readable(x_in), grad = is_aligned(grad_in) ? grad_in.contiguous() : grad_in.clone();
  const bool fits = into.defined() && x.is_same(x_in) && into.strides() == x.strides() && is_aligned(into);
  const at::Tensor grad_x = fits ? into : at::empty(x.sizes(), x.options());
  if (x.numel() == 0) return {grad_x, at::zeros_like(weight)};
  norm_cuda::Params p = params_of(x, weight, cosine, sine, grad.scalar_type());
  p.blocks = std::clamp<int64_t>(x.numel() / 4096, 1, norm_cuda::kBackwardBlocks * multiprocessors(x));
  const at::Tensor sums = at::empty({p.blocks, p.width}, x.options().dtype(at::kFloat));
  p.grad = grad.const_data_ptr();
  p.grad_x = grad_x.mutable_data_ptr();
  p.grad_like_x = fits;
  p.grad_weight = sums.mutable_data_ptr<float>();
  check_launch(launch_backward(p, current_stream()));
  if (into.defined() && !fits) into.copy_(grad_x);
  const at::Tensor grad_weight = at::empty({p.width}, sums.options());
  check_launch(norm_cuda::launch_column_sums(sums.const_data_ptr<float>(), p.blocks, p.width, grad_weight.mutable_data_ptr<float>(),
                                             current_stream()));
  return {grad_x, grad_weight.to(weight.scalar_type())};
}

const bool registered = register_cuda_kernels([](CudaKernels* table) {
  table->norm_supports = supports;
  table->norm_forward = forward;
  table->norm_backward = backward;
});

}  // namespace
}  // namespace cairn
