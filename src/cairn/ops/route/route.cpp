#include "cairn/ops/route/route.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/custom_function.h>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/require.h"
#include "cairn/ops/select/select.h"

namespace cairn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double kHidden = -1e30;  // a score that no sum sees; finite, so that rows without any candidate stay free of NaN

struct RouteFunction : torch::autograd::Function<RouteFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& product, double scale, int64_t length, int64_t chunks,
                            int64_t chunk, int64_t own_first, const std::optional<at::Tensor>& states_key,
                            const std::optional<at::Tensor>& key, const at::Tensor& used) {
    const RouteLayout layout = {length, chunks, chunk, own_first};
    const at::Tensor table = states_key.value_or(at::Tensor()), keys = key.value_or(at::Tensor());
    const at::Tensor out = cuda_kernels()->route_forward(product, scale, layout, table, keys, used);
    context->save_for_backward({product, table, keys, used, out});
    context->saved_data["scale"] = scale;
    context->saved_data["layout"] = std::vector<int64_t>{length, chunks, chunk, own_first};
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const std::vector<int64_t> l = context->saved_data["layout"].toIntVector();
    const at::Tensor dproduct = cuda_kernels()->route_backward(grads[0], saved[0], context->saved_data["scale"].toDouble(),
                                                               {l[0], l[1], l[2], l[3]}, saved[1], saved[2], saved[3], saved[4]);
    return {dproduct, {}, {}, {}, {}, {}, {}, {}, {}};
  }
};

std::optional<at::Tensor> given(const at::Tensor& t) { return t.defined() ? std::optional(t) : std::nullopt; }

}  // namespace

at::Tensor route_log_sum_reference(const at::Tensor& product, double scale, const RouteLayout& layout, const at::Tensor& states_key,
                                   const at::Tensor& key, const at::Tensor& used_in) {
  const int64_t L = layout.length, C = layout.chunks, rows = product.size(0), sequences = product.size(1) / C;
  const bool numbered = used_in.scalar_type() == at::kLong;
  const at::Tensor used = numbered ? used_in >= 0 : used_in;
  const at::Tensor number = numbered ? used_in.clamp_min(0) : at::arange(rows, used_in.options().dtype(at::kLong));
  Visibility v;
  v.chunk = layout.chunk;
  const at::Tensor visible = visible_chunks(L, C, v, product.device()).index_select(0, number.remainder(L));  // [rows,C]
  at::Tensor open = at::full({rows, sequences, C}, true, visible.options());
  if (states_key.defined()) open = states_key.index_select(0, key).logical_not_().view({rows, sequences, C});
  const at::Tensor own = at::arange(sequences, number.options()).eq((number.div(L, "floor") + layout.own_first).unsqueeze(1));
  open = at::where(own.unsqueeze(2), visible.unsqueeze(1), open);
  const at::Tensor score = (product.scalar_type() == at::kDouble ? product : product.to(at::kFloat)) * scale;
  const at::Tensor closed = open.logical_not_().view({rows, sequences * C});
  return at::logsumexp(score.masked_fill(closed, kHidden), {1}).masked_fill(used.logical_not(), 0);
}

at::Tensor route_log_sum(const at::Tensor& product, double scale, const RouteLayout& layout, const at::Tensor& states_key,
                         const at::Tensor& key, const at::Tensor& used) {
  const bool numbered = used.scalar_type() == at::kLong;
  CAIRN_CHECK(product.dim() == 2 && layout.length >= 1 && layout.chunks >= 1 && layout.chunk >= 1 &&
                  (numbered || product.size(0) % layout.length == 0) && product.size(1) % layout.chunks == 0,
              "route_log_sum: sequences of {} tokens and {} chunks", layout.length, layout.chunks);
  CAIRN_CHECK(layout.own_first >= 0 && (numbered || layout.own_first + product.size(0) / layout.length <= product.size(1) / layout.chunks),
              "route_log_sum: sequence {} of {}", layout.own_first, product.size(1) / layout.chunks);
  CAIRN_CHECK((numbered || used.scalar_type() == at::kBool) && used.numel() == product.size(0) && states_key.defined() == key.defined() &&
                  (!key.defined() || (key.numel() == product.size(0) && states_key.size(1) == product.size(1))),
              "route_log_sum: used of {}, {} rows", used.numel(), product.size(0));
  require_device("route_log_sum", "states_key", states_key, "product", product);
  require_device("route_log_sum", "key", key, "product", product);
  require_device("route_log_sum", "used", used, "product", product);
  const CudaKernels* kernels = product.is_cuda() ? cuda_kernels() : nullptr;
  if (kernels == nullptr || kernels->route_supports == nullptr || !kernels->route_supports(product)) {
    return route_log_sum_reference(product, scale, layout, states_key, key, used);
  }
  if (at::GradMode::is_enabled() && product.requires_grad()) {
    return RouteFunction::apply(product, scale, layout.length, layout.chunks, layout.chunk, layout.own_first, given(states_key), given(key),
                                used);
  }
  return kernels->route_forward(product, scale, layout, states_key, key, used);
}

}  // namespace cairn
