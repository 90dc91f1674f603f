// On a GPU: ATen's flash attention with a window on the left; what it does not serve (fp32, ALiBi) goes through the reference in blocks.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "cairn/ops/window/private.h"
#include "cairn/ops/window/window.h"

namespace cairn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kMaxBatch = 32768;  // the kernel puts the batch on a grid dimension of at most 65,535
constexpr int64_t kQueryBlock = 512;

at::Tensor rows(const at::Tensor& t) { return t.stride(3) == 1 ? t : t.contiguous(); }

// Query t sees keys t + (M - L) - left .. t + (M - L) + right: the kernel aligns the last query with the last key. -1: no bound.
struct Window {
  std::optional<int64_t> left, right;
  explicit Window(int64_t window) {
    if (window == 0) return;
    left = window - 1;
    right = 0;
  }
};

auto flash_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window) {
  const Window bound(window);
  return at::_flash_attention_forward(q, k, v, std::nullopt, std::nullopt, q.size(1), k.size(1), /*dropout_p=*/0.0, /*is_causal=*/false,
                                      /*return_debug_mask=*/false, /*scale=*/std::nullopt, bound.left, bound.right);
}

struct FlashFunction : torch::autograd::Function<FlashFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window) {
    const auto [out, lse, seed, offset, mask] = flash_forward(q, k, v, window);
    context->save_for_backward({q, k, v, out, lse, seed, offset});
    context->saved_data["window"] = window;
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list s = context->get_saved_variables();
    const Window bound(context->saved_data["window"].toInt());
    const auto [dq, dk, dv] = at::_flash_attention_backward(grads[0], s[0], s[1], s[2], s[3], s[4], /*cum_seq_q=*/{}, /*cum_seq_k=*/{},
                                                            s[0].size(1), s[1].size(1), /*dropout_p=*/0.0, /*is_causal=*/false, s[5], s[6],
                                                            /*scale=*/std::nullopt, bound.left, bound.right);
    return {dq, dk, dv, {}};
  }
};

}  // namespace

bool flash_serves(const at::Tensor& q, const at::Tensor& slopes) {
  const bool short_numbers = q.scalar_type() == at::kBFloat16 || q.scalar_type() == at::kHalf;
  return q.is_cuda() && short_numbers && !slopes.defined() && q.size(3) % 8 == 0 && q.size(3) <= 256;
}

at::Tensor flash_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window) {
  if (q.numel() == 0) return q * 1.0;  // keeps the graph
  if (q.size(0) > kMaxBatch) {
    std::vector<at::Tensor> parts;
    for (int64_t b = 0; b < q.size(0); b += kMaxBatch) {
      const int64_t n = std::min(kMaxBatch, q.size(0) - b);
      parts.push_back(flash_attention(q.narrow(0, b, n), k.narrow(0, b, n), v.narrow(0, b, n), window));
    }
    return at::cat(parts, 0);
  }
  if (at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad()))
    return FlashFunction::apply(rows(q), rows(k), rows(v), window);
  return std::get<0>(flash_forward(rows(q), rows(k), rows(v), window));
}

at::Tensor window_attention_blocks(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window,
                                   const at::Tensor& slopes) {
  const int64_t queries = q.size(1), history = k.size(1) - queries;
  if (queries == 0 || (queries <= kQueryBlock && history < window)) return window_attention_reference(q, k, v, window, slopes);
  std::vector<at::Tensor> parts;
  for (int64_t t = 0; t < queries; t += kQueryBlock) {
    const int64_t n = std::min(kQueryBlock, queries - t);
    const int64_t first = std::max<int64_t>(0, t + history - window + 1), keys = t + n + history - first;
    parts.push_back(window_attention_reference(q.narrow(1, t, n), k.narrow(1, first, keys), v.narrow(1, first, keys), window, slopes));
  }
  return at::cat(parts, 1);
}

}  // namespace cairn
