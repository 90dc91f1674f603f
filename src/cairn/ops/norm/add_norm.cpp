// The residual sum and the norm behind it: one kernel each way where there is one, else a sum and a norm.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/norm/norm.h"

namespace cairn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct AddNormFunction : torch::autograd::Function<AddNormFunction> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& delta, const at::Tensor& weight) {
    const auto [sum, y] = cuda_kernels()->add_norm_forward(x, delta, weight);
    context->save_for_backward({sum, weight});
    context->set_materialize_grads(false);
    return {sum, y};
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    if (!grads[1].defined()) {  // only the sum was used
      return {grads[0], grads[0].defined() ? grads[0].to(at::kBFloat16) : at::Tensor(), {}};
    }
    const variable_list saved = context->get_saved_variables();
    const auto [dx, ddelta, dweight] = cuda_kernels()->add_norm_backward(grads[0], grads[1], saved[0], saved[1]);
    return {dx, ddelta, dweight};
  }
};

// A stream that is normed and goes on as it is: its two gradients are added where the norm's is made, not by a pass of their own.
struct KeepNormFunction : torch::autograd::Function<KeepNormFunction> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight) {
    context->save_for_backward({x, weight});
    context->set_materialize_grads(false);
    const at::Tensor rows = x.view({1, -1, 1, x.size(-1)});
    return {x, cuda_kernels()->norm_forward(rows, weight, {}, {}, at::kBFloat16).view(x.sizes())};
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    if (!grads[1].defined()) return {grads[0], {}};
    const variable_list saved = context->get_saved_variables();
    const auto [dx, same_in_bf16, dweight] = cuda_kernels()->add_norm_backward(grads[0], grads[1], saved[0], saved[1]);
    return {dx, dweight};
  }
};

bool keeps(const at::Tensor& x, const at::Tensor& weight, at::ScalarType out) {
  const CudaKernels* kernels = x.is_cuda() && at::GradMode::is_enabled() && x.requires_grad() ? cuda_kernels() : nullptr;
  return kernels != nullptr && kernels->add_norm_supports != nullptr && kernels->norm_supports != nullptr && x.dim() >= 1 &&
         x.scalar_type() == at::kFloat && out == at::kBFloat16 && x.is_contiguous() && x.numel() > 0 && weight.numel() == x.size(-1) &&
         kernels->norm_supports(x.view({1, -1, 1, x.size(-1)}), weight, out) &&
         kernels->add_norm_supports(x, at::empty({0}, x.options().dtype(at::kBFloat16)), weight, out);
}

}  // namespace

AddNorm add_rms_norm(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& weight, at::ScalarType out) {
  if (!delta.defined() && keeps(x, weight, out)) {
    const variable_list both = KeepNormFunction::apply(x, weight);
    return {both[0], both[1]};
  }
  if (!delta.defined()) return {x, rms_norm(x, weight, out)};
  CAIRN_CHECK(x.dim() >= 1 && weight.dim() == 1 && weight.size(0) == x.size(-1) && delta.sizes() == x.sizes(),
              "add_rms_norm: weight of {}, x of {} numbers, delta of {}", weight.numel(), x.numel(), delta.numel());
  const bool differentiate = at::GradMode::is_enabled() && (x.requires_grad() || delta.requires_grad() || weight.requires_grad());
  const CudaKernels* kernels = x.is_cuda() ? cuda_kernels() : nullptr;
  if (kernels != nullptr && kernels->add_norm_supports != nullptr && kernels->add_norm_supports(x, delta, weight, out) &&
      (!differentiate || x.scalar_type() == at::kFloat)) {
    if (differentiate) {
      const variable_list both = AddNormFunction::apply(x, delta, weight);
      return {both[0], both[1]};
    }
    const auto [sum, y] = kernels->add_norm_forward(x, delta, weight);
    return {sum, y};
  }
  const at::Tensor sum = x + delta;
  return {sum, rms_norm(sum, weight, out)};
}

}  // namespace cairn
