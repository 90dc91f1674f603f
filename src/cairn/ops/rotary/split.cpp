// Queries, keys and values out of one product.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/split_with_sizes.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/rotary/rotary.h"

namespace cairn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// q, k and v as views of `joined`. Split, not narrowed: where autograd follows, the gradients of the parts become one tensor at once.
QueryKeyValue parts_of(const at::Tensor& joined, int64_t heads, int64_t kv_heads, int64_t width) {
  const std::vector<at::Tensor> part = joined.split_with_sizes({heads * width, kv_heads * width, kv_heads * width}, -1);
  const auto by_head = [&](const at::Tensor& x, int64_t n) { return x.view({joined.size(0), joined.size(1), n, width}); };
  return {by_head(part[0], heads), by_head(part[1], kv_heads), by_head(part[2], kv_heads)};
}

// to = from [B,L,H,D], rows of `to` apart from each other. In words of 16 bytes where it goes: ATen copies what is strided number by
// number.
void copy_rows(const at::Tensor& to, const at::Tensor& from_in) {
  constexpr auto kWide = at::kComplexDouble;
  const at::Tensor from = from_in.contiguous();
  const int64_t numbers = 16 / to.element_size();
  bool fits = to.scalar_type() == from.scalar_type() && to.stride(3) == 1 && to.size(3) % numbers == 0 &&
              to.storage_offset() % numbers == 0 && from.storage_offset() % numbers == 0;
  for (int64_t d = 0; d < 3; ++d) fits = fits && to.stride(d) % numbers == 0;
  for (const at::Tensor* t : {&to, &from}) fits = fits && reinterpret_cast<uintptr_t>(t->const_data_ptr()) % 16 == 0;
  if (fits) {
    to.view(kWide).copy_(from.view(kWide));
  } else {
    to.copy_(from);
  }
}

struct SplitFunction : torch::autograd::Function<SplitFunction> {
  static variable_list forward(AutogradContext* context, const at::Tensor& joined, const at::Tensor& q_gain, const at::Tensor& k_gain,
                               const std::optional<at::Tensor>& cosine, const std::optional<at::Tensor>& sine, int64_t heads,
                               int64_t kv_heads) {
    const at::Tensor c = cosine.value_or(at::Tensor()), s = sine.value_or(at::Tensor());
    const QueryKeyValue part = parts_of(joined, heads, kv_heads, q_gain.size(0));
    context->save_for_backward({joined, q_gain, k_gain, c, s});
    context->saved_data["heads"] = heads;
    context->saved_data["kv_heads"] = kv_heads;
    context->set_materialize_grads(false);
    const auto type = joined.scalar_type();
    return {cuda_kernels()->norm_forward(part.q, q_gain, c, s, type), cuda_kernels()->norm_forward(part.k, k_gain, c, s, type), part.v};
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const int64_t heads = context->saved_data["heads"].toInt(), kv_heads = context->saved_data["kv_heads"].toInt(),
                  width = saved[1].size(0);
    const at::Tensor gradient = at::empty_like(saved[0]);
    const QueryKeyValue from = parts_of(saved[0], heads, kv_heads, width), to = parts_of(gradient, heads, kv_heads, width);
    at::Tensor gains[2];
    for (int i = 0; i < 2; ++i) {
      const at::Tensor &x = i == 0 ? from.q : from.k, &into = i == 0 ? to.q : to.k;
      if (grads[i].defined()) {
        gains[i] = std::get<1>(cuda_kernels()->norm_backward(grads[i], x, saved[1 + i], saved[3], saved[4], into));
      } else {
        into.zero_();
      }
    }
    if (grads[2].defined()) {
      copy_rows(to.v, grads[2]);
    } else {
      to.v.zero_();
    }
    return {gradient, gains[0], gains[1], {}, {}, {}, {}};
  }
};

std::optional<at::Tensor> given(const at::Tensor& t) { return t.defined() ? std::optional(t) : std::nullopt; }

}  // namespace

QueryKeyValue split_norm_rotate(const at::Tensor& joined, const at::Tensor& q_gain, const at::Tensor& k_gain, const RotaryTable& table,
                                int64_t heads, int64_t kv_heads) {
  CAIRN_CHECK(joined.dim() == 3 && q_gain.dim() == 1 && k_gain.sizes() == q_gain.sizes() &&
                  joined.size(2) == (heads + 2 * kv_heads) * q_gain.size(0),
              "split_norm_rotate: rows of {} numbers for {} and twice {} heads of {}", joined.size(-1), heads, kv_heads, q_gain.numel());
  const QueryKeyValue part = parts_of(joined, heads, kv_heads, q_gain.size(0));
  const CudaKernels* kernels = joined.is_cuda() && at::GradMode::is_enabled() && joined.requires_grad() ? cuda_kernels() : nullptr;
  const auto type = joined.scalar_type();
  if (kernels != nullptr && kernels->norm_supports != nullptr && joined.is_contiguous() && kernels->norm_supports(part.q, q_gain, type) &&
      kernels->norm_supports(part.k, k_gain, type)) {
    const variable_list all = SplitFunction::apply(joined, q_gain, k_gain, given(table.cosine), given(table.sine), heads, kv_heads);
    return {all[0], all[1], all[2]};
  }
  return {norm_rotate(part.q, q_gain, table), norm_rotate(part.k, k_gain, table), part.v};
}

}  // namespace cairn
