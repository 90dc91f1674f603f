// The residual sum and the norm behind it: one kernel each way where there is one, else a sum and a norm.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
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

}  // namespace

AddNorm add_rms_norm(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& weight, at::ScalarType out) {
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
