#include "cairn/ops/norm/norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/promote_types.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/norm/fused.h"

namespace cairn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const CudaKernels* kernels_for(const at::Tensor& x, const at::Tensor& weight, at::ScalarType out) {
  const CudaKernels* kernels = x.is_cuda() ? cuda_kernels() : nullptr;
  return kernels != nullptr && kernels->norm_supports != nullptr && kernels->norm_supports(x, weight, out) ? kernels : nullptr;
}

NormForward forward_of(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine, const at::Tensor& sine,
                       at::ScalarType out) {
  if (const CudaKernels* kernels = kernels_for(x, weight, out)) return {kernels->norm_forward(x, weight, cosine, sine, out), at::Tensor()};
  return x.is_cuda() ? norm_forward_cuda(x, weight, cosine, sine, out) : norm_forward_cpu(x, weight, cosine, sine, out);
}

struct NormFunction : torch::autograd::Function<NormFunction> {
  // An absent table is an absent optional: the engine takes no undefined tensors.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& cosine, const std::optional<at::Tensor>& sine, int64_t out) {
    const at::Tensor c = cosine.value_or(at::Tensor()), s = sine.value_or(at::Tensor());
    const NormForward result = forward_of(x, weight, c, s, static_cast<at::ScalarType>(out));
    context->save_for_backward({x, weight, c, s, result.scale});
    return result.y;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    if (saved[0].is_cuda() && !saved[4].defined()) {  // our own kernels keep no statistics
      const auto [dx, dw] = cuda_kernels()->norm_backward(grads[0], saved[0], saved[1], saved[2], saved[3], {});
      return {dx, dw, {}, {}, {}};
    }
    const auto [dx, dw] = saved[0].is_cuda() ? norm_backward_cuda(grads[0], saved[0], saved[1], saved[2], saved[3], saved[4])
                                             : norm_backward_cpu(grads[0], saved[0], saved[1], saved[2], saved[3]);
    return {dx, dw, {}, {}, {}};
  }
};

std::optional<at::Tensor> given(const at::Tensor& t) { return t.defined() ? std::optional(t) : std::nullopt; }
bool is_short(at::ScalarType type) { return type == at::kFloat || type == at::kBFloat16; }

}  // namespace

bool fused_norm_serves(const at::Tensor& x, at::ScalarType out) {
  return is_short(x.scalar_type()) && is_short(out) && x.dim() >= 1 && x.size(-1) > 0 && (x.is_cpu() || x.is_cuda());
}

at::Tensor fused_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine, const at::Tensor& sine, at::ScalarType out) {
  if (at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad()))
    return NormFunction::apply(x, weight, given(cosine), given(sine), static_cast<int64_t>(out));
  return forward_of(x, weight, cosine, sine, out).y;
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, at::ScalarType out) {
  CAIRN_CHECK(x.dim() >= 1 && weight.dim() == 1 && weight.size(0) == x.size(-1), "rms_norm: weight of {}, last dimension {}",
              weight.numel(), x.dim() ? x.size(-1) : 0);
  if (fused_norm_serves(x, out)) return fused_norm(x.reshape({1, -1, 1, x.size(-1)}), weight, {}, {}, out).view(x.sizes());
  // The wider of the two types carries the numbers until the one rounding at the end.
  return rms_norm_reference(x.to(at::promote_types(x.scalar_type(), out)), weight).to(out);
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight) { return rms_norm(x, weight, x.scalar_type()); }

at::Tensor head_rms_norm(const at::Tensor& x, const at::Tensor& weight, int64_t heads) {
  CAIRN_CHECK(heads >= 1 && x.size(-1) % heads == 0 && weight.dim() == 1 && weight.size(0) == x.size(-1),
              "head_rms_norm: {} numbers, {} heads, weight of {}", x.size(-1), heads, weight.numel());
  if (heads == 1) return rms_norm(x, weight);
  const int64_t width = x.size(-1) / heads;
  if (x.is_cpu() && fused_norm_serves(x, x.scalar_type()))
    return fused_norm(x.reshape({1, -1, heads, width}), weight, {}, {}, x.scalar_type()).view(x.sizes());
  const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor parts = x.to(type).unflatten(-1, {heads, width});
  const at::Tensor ones = at::ones({width}, parts.options());
  return (rms_norm_reference(parts, ones) * weight.to(type).view({heads, width})).flatten(-2).to(x.scalar_type());
}

}  // namespace cairn
