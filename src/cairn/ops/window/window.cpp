#include "cairn/ops/window/window.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "cairn/core/error.h"
#include "cairn/ops/window/private.h"

namespace cairn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct BandFunction : torch::autograd::Function<BandFunction> {
  // Absent slopes are an absent optional: the engine takes no undefined tensors.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::optional<at::Tensor>& slopes, int64_t window) {
    const at::Tensor s = slopes.value_or(at::Tensor());
    context->save_for_backward({q, k, v, s});
    context->saved_data["window"] = window;
    return band_forward_cpu(q, k, v, window, s);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list s = context->get_saved_variables();
    auto [dq, dk, dv] = band_backward_cpu(grads[0], s[0], s[1], s[2], context->saved_data["window"].toInt(), s[3]);
    return {dq, dk, dv, {}, {}};
  }
};

bool cpu_serves(const at::Tensor& q) { return q.is_cpu() && (q.scalar_type() == at::kFloat || q.scalar_type() == at::kBFloat16); }

at::Tensor band(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window, const at::Tensor& slopes) {
  if (at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad()))
    return BandFunction::apply(q, k, v, slopes.defined() ? std::optional(slopes) : std::nullopt, window);
  return band_forward_cpu(q, k, v, window, slopes);
}

}  // namespace

at::Tensor window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window, const at::Tensor& alibi_slopes) {
  check_attention("window_attention", q, k, v);
  CAIRN_CHECK(window >= 1, "window_attention: window {}", window);
  if (cpu_serves(q)) return band(q, k, v, window, alibi_slopes);
  if (flash_serves(q, alibi_slopes)) return flash_attention(q, k, v, window);
  return q.is_cuda() ? window_attention_blocks(q, k, v, window, alibi_slopes) : window_attention_reference(q, k, v, window, alibi_slopes);
}

at::Tensor full_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  check_attention("full_attention", q, k, v);
  if (cpu_serves(q)) return band(q, k, v, 0, {});
  if (flash_serves(q, {})) return flash_attention(q, k, v, 0);
  return full_attention_reference(q, k, v);
}

}  // namespace cairn
