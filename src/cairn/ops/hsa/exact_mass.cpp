#include "cairn/ops/hsa/exact_mass.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/select/select.h"

namespace cairn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Function-local, so that it is there whichever object is initialised first.
ExactMassKernels& table() {
  static ExactMassKernels it;
  return it;
}

// One value a retrieval head (or one for all) spread over the query heads: [B,L,Q,N] -> [B,L,H,N].
at::Tensor spread(const at::Tensor& t, int64_t heads) {
  return t.unsqueeze(3)
      .expand({t.size(0), t.size(1), t.size(2), heads / t.size(2), t.size(3)})
      .reshape({t.size(0), t.size(1), heads, t.size(3)});
}

at::Tensor no_weight(const at::Tensor& index, const at::Tensor& score) {
  return at::zeros({index.size(0), index.size(1), 1, index.size(3)}, score.options().requires_grad(false));
}

bool by_kernels(const at::Tensor& q, const at::Tensor& k, const at::Tensor& index, const at::Tensor& score, int64_t chunk) {
  const CudaKernels* kernels =
      q.is_cuda() && q.scalar_type() == at::kBFloat16 && score.scalar_type() == at::kFloat ? cuda_kernels() : nullptr;
  if (kernels == nullptr || kernels->hsa_supports == nullptr || table().backward == nullptr) return false;
  const at::Tensor one = no_weight(index, score), each = one.expand({index.size(0), index.size(1), q.size(2), index.size(3)});
  return kernels->hsa_supports(q, k, index, one, chunk, false, true) && kernels->hsa_supports(q, k, index, each, chunk, false, false);
}

struct ExactMassFunction : torch::autograd::Function<ExactMassFunction> {
  static variable_list forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const at::Tensor& index, const at::Tensor& score, double alpha, int64_t chunk) {
    const at::Tensor lse = hsa(q, k, v, index, no_weight(index, score), chunk, false, true).lse;
    const at::Tensor weight = table().weights(lse, score, index, alpha), o = hsa(q, k, v, index, weight, chunk).o;
    context->save_for_backward({q, k, v, index, weight, o});
    context->saved_data["alpha"] = alpha;
    context->saved_data["chunk"] = chunk;
    context->saved_data["score_heads"] = score.size(2);
    context->mark_non_differentiable({weight, lse});
    context->set_materialize_grads(false);
    return {o, weight, lse};
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list out(7);
    if (!grads[0].defined()) return out;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& weight = saved[4];
    const double alpha = context->saved_data["alpha"].toDouble();
    const HsaGradients d =
        table().backward(grads[0], saved[5], saved[0], saved[1], saved[2], saved[3], weight, alpha, context->saved_data["chunk"].toInt());
    out[0] = d.q, out[1] = d.k, out[2] = d.v;
    const int64_t Q = context->saved_data["score_heads"].toInt();
    if (context->needs_input_grad(4) && alpha == 1) {
      out[4] = at::zeros({weight.size(0), weight.size(1), Q, weight.size(3)}, weight.options());
    } else if (context->needs_input_grad(4)) {
      const at::Tensor part = weight * d.weight;
      const at::Tensor each = (part - weight * part.sum({-1}, true)).mul_(1 - alpha);
      out[4] = each.view({each.size(0), each.size(1), Q, each.size(2) / Q, each.size(3)}).sum(3);
    }
    return out;
  }
};

}  // namespace

bool register_exact_mass_kernels(void (*fill)(ExactMassKernels* table)) {
  fill(&table());
  return true;
}

ExactMass hsa_exact_mass_composed(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index,
                                  const at::Tensor& score, double alpha, int64_t chunk, bool off_by_one) {
  const int64_t H = q.size(2);
  const at::Tensor lse = hsa(q, k, v, index, no_weight(index, score), chunk, false, true).lse;
  const at::Tensor weight = softmax_weights(alpha * lse + (1 - alpha) * spread(score, H), spread(index >= 0, H));
  return {hsa(q, k, v, index, weight, chunk, off_by_one).o, weight.detach(), lse.detach()};
}

ExactMass hsa_exact_mass(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& score,
                         double alpha, int64_t chunk, bool off_by_one) {
  CAIRN_CHECK(alpha > 0 && alpha <= 1 && score.dim() == 4 && score.sizes() == index.sizes() && q.size(2) % score.size(2) == 0,
              "hsa_exact_mass: alpha {}, score of {} dimensions", alpha, score.dim());
  if (off_by_one || !by_kernels(q, k, index, score, chunk)) return hsa_exact_mass_composed(q, k, v, index, score, alpha, chunk, off_by_one);
  const variable_list out = ExactMassFunction::apply(q, k, v, index, score, alpha, chunk);
  return {out[0], out[1], out[2]};
}

}  // namespace cairn
