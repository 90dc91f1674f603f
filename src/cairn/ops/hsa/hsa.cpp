// Choice of the path, and autograd: what is saved are the inputs alone, because each chunk's softmax is complete in itself and is made
// again.
#include "cairn/ops/hsa/hsa.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "cairn/ops/hsa/cpu.h"
#include "cairn/ops/hsa/shapes.h"

namespace cairn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct HsaFunction : torch::autograd::Function<HsaFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index,
                               const at::Tensor& weight, int64_t chunk, bool off_by_one, bool want_lse) {
    ctx->save_for_backward({q, k, v, index, weight});
    ctx->saved_data["chunk"] = chunk;
    ctx->saved_data["off_by_one"] = off_by_one;
    ctx->set_materialize_grads(false);
    HsaOutput out = hsa_cpu_forward(q, k, v, index, weight, chunk, off_by_one, want_lse);
    return want_lse ? variable_list{out.o, out.lse} : variable_list{out.o};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &index = saved[3], &weight = saved[4];
    const at::Tensor grad_lse = grads.size() > 1 ? grads[1] : at::Tensor();
    if (!grads[0].defined() && !grad_lse.defined()) return variable_list(8);
    const at::Tensor grad_o = grads[0].defined() ? grads[0] : at::zeros_like(q);
    const HsaGradients d = hsa_cpu_backward(grad_o, grad_lse, q, k, v, index, weight, ctx->saved_data["chunk"].toInt(),
                                            ctx->saved_data["off_by_one"].toBool());
    return {d.q, d.k, d.v, at::Tensor(), d.weight, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

bool has_fast_path(const at::Tensor& q) { return q.is_cpu() && (q.scalar_type() == at::kFloat || q.scalar_type() == at::kBFloat16); }

}  // namespace

HsaOutput hsa(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight,
              int64_t chunk, bool off_by_one, bool want_lse) {
  if (!has_fast_path(q)) return hsa_reference(q, k, v, index, weight, chunk, off_by_one, want_lse);
  hsa_shape(q, k, v, index, weight, chunk);
  const bool graph = at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad() || weight.requires_grad());
  if (!graph) return hsa_cpu_forward(q, k, v, index, weight, chunk, off_by_one, want_lse);
  const variable_list out = HsaFunction::apply(q, k, v, index, weight, chunk, off_by_one, want_lse);
  return {out[0], want_lse ? out[1] : at::Tensor()};
}

}  // namespace cairn
