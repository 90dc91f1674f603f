#include "cairn/ops/norm/parts.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/split_with_sizes.h>
#include <torch/csrc/autograd/custom_function.h>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/norm/norm.h"

namespace cairn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::vector<at::Tensor> parts_of(const at::Tensor& joined, at::TensorList gains, at::IntArrayRef heads) {
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < gains.size(); ++i) sizes.push_back(heads[i] * gains[i].size(0));
  std::vector<at::Tensor> parts = joined.split_with_sizes(sizes, -1);
  for (size_t i = 0; i < parts.size(); ++i) parts[i] = parts[i].view({joined.size(0), joined.size(1), heads[i], gains[i].size(0)});
  return parts;
}

struct PartsFunction : torch::autograd::Function<PartsFunction> {
  static variable_list forward(AutogradContext* context, const at::Tensor& joined, at::TensorList gains,
                               const std::vector<int64_t>& heads) {
    variable_list saved = gains.vec();
    saved.push_back(joined);
    context->save_for_backward(saved);
    context->saved_data["heads"] = heads;
    context->set_materialize_grads(false);
    variable_list out = parts_of(joined, gains, heads);
    for (size_t i = 0; i < out.size(); ++i) out[i] = cuda_kernels()->norm_forward(out[i], gains[i], {}, {}, joined.scalar_type());
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    variable_list gains = context->get_saved_variables();
    const at::Tensor joined = gains.back();
    gains.pop_back();
    const std::vector<int64_t> heads = context->saved_data["heads"].toIntVector();
    const at::Tensor gradient = at::empty_like(joined);
    const std::vector<at::Tensor> from = parts_of(joined, gains, heads), to = parts_of(gradient, gains, heads);
    variable_list out = {gradient};
    for (size_t i = 0; i < gains.size(); ++i) {
      if (grads[i].defined()) {
        out.push_back(std::get<1>(cuda_kernels()->norm_backward(grads[i], from[i], gains[i], {}, {}, to[i])));
      } else {
        to[i].zero_();
        out.emplace_back();
      }
    }
    out.emplace_back();
    return out;
  }
};

}  // namespace

std::vector<at::Tensor> norm_parts(const at::Tensor& joined, const std::vector<at::Tensor>& gains, const std::vector<int64_t>& heads) {
  CAIRN_CHECK(joined.dim() == 3 && gains.size() == heads.size(), "norm_parts: {} gains for {} parts", gains.size(), heads.size());
  std::vector<at::Tensor> parts = parts_of(joined, gains, heads);
  const CudaKernels* kernels = joined.is_cuda() && at::GradMode::is_enabled() && joined.requires_grad() ? cuda_kernels() : nullptr;
  bool served = kernels != nullptr && kernels->norm_supports != nullptr && joined.is_contiguous();
  for (size_t i = 0; served && i < parts.size(); ++i) served = kernels->norm_supports(parts[i], gains[i], joined.scalar_type());
  if (served) return PartsFunction::apply(joined, at::TensorList(gains), heads);
  for (size_t i = 0; i < parts.size(); ++i) parts[i] = rms_norm(parts[i], gains[i]);
  return parts;
}

}  // namespace cairn
