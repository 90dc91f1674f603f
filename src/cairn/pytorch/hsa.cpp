// torch.ops.cairn.hsa and its backward, on the operators of ops/hsa.
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <tuple>

#include "cairn/ops/hsa/direct.h"
#include "cairn/pytorch/arguments.h"
#include "cairn/pytorch/operators.h"

namespace cairn::pytorch {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Outputs = std::tuple<Tensor, Tensor>;
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

at::ScalarType lse_type(const Tensor& q) { return q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// What the Meta function promises: fresh, contiguous.
Tensor plain(const Tensor& x) { return x.contiguous(); }

Outputs forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& index, const Tensor& weight, int64_t chunk,
                bool off_by_one, bool return_lse, bool check_index) {
  const HsaArguments arguments{"cairn::hsa", q, k, v, index, weight, chunk};
  arguments.check();
  arguments.check_index(check_index);
  return named(arguments, [&]() -> Outputs {
    const int64_t B = q.size(0), L = q.size(1), H = q.size(2);
    const auto lse_options = q.options().dtype(lse_type(q));
    if (arguments.nothing_to_do())
      return {at::zeros(q.sizes(), q.options()), at::zeros({B, L, H, return_lse ? index.size(3) : 0}, lse_options)};
    const HsaOutput out = hsa_forward(q, k, v, index, weight, chunk, off_by_one, return_lse);
    return {plain(out.o), return_lse ? plain(out.lse) : at::empty({B, L, H, 0}, lse_options)};
  });
}

Outputs forward_meta(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& index, const Tensor& weight, int64_t chunk, bool,
                     bool return_lse, bool) {
  const HsaArguments arguments{"cairn::hsa", q, k, v, index, weight, chunk};
  arguments.check();
  const c10::SymInt slots = return_lse ? arguments.slots() : c10::SymInt(0);
  return {at::empty_symint(q.sym_sizes(), q.options()),
          at::empty_symint({q.sym_size(0), q.sym_size(1), q.sym_size(2), slots}, q.options().dtype(lse_type(q)))};
}

Gradients backward(const Tensor& grad_o, const std::optional<Tensor>& grad_lse, const Tensor& q, const Tensor& k, const Tensor& v,
                   const Tensor& index, const Tensor& weight, int64_t chunk, bool off_by_one, bool check_index) {
  const HsaArguments arguments{"cairn::hsa_backward", q, k, v, index, weight, chunk};
  const Tensor grad = grad_lse.value_or(Tensor());
  arguments.check();
  arguments.check_grads(grad_o, grad);
  arguments.check_index(check_index);
  return named(arguments, [&]() -> Gradients {
    if (arguments.nothing_to_do()) {
      return {at::zeros(q.sizes(), q.options()), at::zeros(k.sizes(), k.options()), at::zeros(v.sizes(), v.options()),
              at::zeros(weight.sizes(), weight.options())};
    }
    const HsaGradients d = hsa_backward(grad_o.to(q.scalar_type()), grad, q, k, v, index, weight, chunk, off_by_one);
    return {plain(d.q), plain(d.k), plain(d.v), plain(d.weight)};
  });
}

Gradients backward_meta(const Tensor& grad_o, const std::optional<Tensor>& grad_lse, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& index, const Tensor& weight, int64_t chunk, bool, bool) {
  const HsaArguments arguments{"cairn::hsa_backward", q, k, v, index, weight, chunk};
  arguments.check();
  arguments.check_grads(grad_o, grad_lse.value_or(Tensor()));
  const auto like = [](const Tensor& x) { return at::empty_symint(x.sym_sizes(), x.options()); };
  return {like(q), like(k), like(v), like(weight)};
}

Outputs call_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& index, const Tensor& weight, int64_t chunk,
                     bool off_by_one, bool return_lse, bool check_index) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("cairn::hsa", "").typed<decltype(forward)>();
  return op.call(q, k, v, index, weight, chunk, off_by_one, return_lse, check_index);
}

Gradients call_backward(const Tensor& grad_o, const std::optional<Tensor>& grad_lse, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& index, const Tensor& weight, int64_t chunk, bool off_by_one, bool check_index) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("cairn::hsa_backward", "").typed<decltype(backward)>();
  return op.call(grad_o, grad_lse, q, k, v, index, weight, chunk, off_by_one, check_index);
}

// Saved are the inputs alone: each chunk's softmax is complete in itself and is made again.
struct HsaNode : torch::autograd::Function<HsaNode> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& index,
                               const Tensor& weight, int64_t chunk, bool off_by_one, bool return_lse, bool check_index) {
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({q, k, v, index, weight});
    ctx->saved_data["chunk"] = chunk;
    ctx->saved_data["off_by_one"] = off_by_one;
    ctx->saved_data["return_lse"] = return_lse;
    ctx->set_materialize_grads(false);
    const auto [o, lse] = call_forward(q, k, v, index, weight, chunk, off_by_one, return_lse, check_index);
    return {o, lse};  // none is marked as not differentiable: compiled autograd does not know that
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list out(9);
    const bool has_lse = grads[1].defined() && ctx->saved_data["return_lse"].toBool();
    if (!grads[0].defined() && !has_lse) return out;
    const variable_list saved = ctx->get_saved_variables();
    const Tensor grad_o = grads[0].defined() ? grads[0] : at::zeros_like(saved[0]);
    const std::optional<Tensor> grad_lse = has_lse ? std::optional<Tensor>(grads[1]) : std::nullopt;
    // The forward has checked the indices if that was asked for.
    std::tie(out[0], out[1], out[2], out[4]) =
        call_backward(grad_o, grad_lse, saved[0], saved[1], saved[2], saved[3], saved[4], ctx->saved_data["chunk"].toInt(),
                      ctx->saved_data["off_by_one"].toBool(), /*check_index=*/false);
    return out;
  }
};

Outputs forward_autograd(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& index, const Tensor& weight, int64_t chunk,
                         bool off_by_one, bool return_lse, bool check_index) {
  const variable_list out = HsaNode::apply(q, k, v, index, weight, chunk, off_by_one, return_lse, check_index);
  return {out[0], out[1]};
}

// There is no second derivative; without a node of its own, gradients through gradients would silently be lost.
struct HsaBackwardNode : torch::autograd::Function<HsaBackwardNode> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext*, const Tensor& grad_o, const std::optional<Tensor>& grad_lse, const Tensor& q,
                               const Tensor& k, const Tensor& v, const Tensor& index, const Tensor& weight, int64_t chunk, bool off_by_one,
                               bool check_index) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [dq, dk, dv, dw] = call_backward(grad_o, grad_lse, q, k, v, index, weight, chunk, off_by_one, check_index);
    return {dq, dk, dv, dw};
  }

  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        false, "cairn::hsa: it has no second derivative; differentiate once, or use cairn.plain.hsa, which is plain PyTorch");
  }
};

Gradients backward_autograd(const Tensor& grad_o, const std::optional<Tensor>& grad_lse, const Tensor& q, const Tensor& k, const Tensor& v,
                            const Tensor& index, const Tensor& weight, int64_t chunk, bool off_by_one, bool check_index) {
  const variable_list out = HsaBackwardNode::apply(grad_o, grad_lse, q, k, v, index, weight, chunk, off_by_one, check_index);
  return {out[0], out[1], out[2], out[3]};
}

// In a region of torch.autocast: q, k and v in its dtype if the operator has that, else fp32.
template <at::DeviceType device, c10::DispatchKey key>
Outputs forward_autocast(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& index, const Tensor& weight, int64_t chunk,
                         bool off_by_one, bool return_lse, bool check_index) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto type = at::autocast::get_autocast_dtype(device) == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
  const auto cast = [&](const Tensor& x) { return at::autocast::cached_cast(type, x, device); };
  const Tensor w = weight.scalar_type() == at::kDouble ? weight : weight.to(at::kFloat);
  return call_forward(cast(q), cast(k), cast(v), index, w, chunk, off_by_one, return_lse, check_index);
}

}  // namespace

void implement_hsa(const Keys& keys) {
  keys.cpu.impl("hsa", TORCH_FN(forward));
  keys.cuda.impl("hsa", TORCH_FN(forward));
  keys.meta.impl("hsa", TORCH_FN(forward_meta));
  keys.autograd.impl("hsa", TORCH_FN(forward_autograd));
  keys.autocast_cpu.impl("hsa", TORCH_FN((forward_autocast<at::kCPU, c10::DispatchKey::AutocastCPU>)));
  keys.autocast_cuda.impl("hsa", TORCH_FN((forward_autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>)));
  keys.cpu.impl("hsa_backward", TORCH_FN(backward));
  keys.cuda.impl("hsa_backward", TORCH_FN(backward));
  keys.meta.impl("hsa_backward", TORCH_FN(backward_meta));
  keys.autograd.impl("hsa_backward", TORCH_FN(backward_autograd));
}

}  // namespace cairn::pytorch
