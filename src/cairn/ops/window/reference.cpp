#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>

#include <cmath>
#include <limits>

#include "cairn/ops/require.h"
#include "cairn/ops/window/private.h"
#include "cairn/ops/window/window.h"

namespace cairn {
namespace {

at::ScalarType accumulate_type(const at::Tensor& t) { return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// [B,M,Hkv,D] -> [B,H,M,D]: every query head gets its key/value head.
at::Tensor by_head(const at::Tensor& t, int64_t heads, at::ScalarType type) {
  return t.to(type).repeat_interleave(heads / t.size(2), 2).transpose(1, 2);
}

}  // namespace

void check_attention(const char* name, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  require_dimensions(name, "q", q, 4, "[B,L,H,D]");
  require_dimensions(name, "k", k, 4, "[B,M,Hkv,D]");
  require_sizes(name, "v", v, k.sizes(), "the shape of k");
  CAIRN_CHECK(
      q.size(0) == k.size(0) && q.size(3) == k.size(3) && k.size(2) >= 1 && q.size(2) % k.size(2) == 0 && k.size(1) >= q.size(1),
      "{}: argument k has shape {}; expected [B,M,Hkv,D] with B and D of q, Hkv a divisor of its heads, M at least its tokens, for q {}",
      name, shape_text(k.sizes()), shape_text(q.sizes()));
  require_type(name, "k", k, q.scalar_type());
  require_type(name, "v", v, q.scalar_type());
  require_device(name, "k", k, "q", q);
  require_device(name, "v", v, "q", q);
}

at::Tensor window_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window,
                                      const at::Tensor& alibi_slopes) {
  check_attention("window_attention", q, k, v);
  CAIRN_CHECK(window >= 1, "window_attention: window {}", window);
  const int64_t queries = q.size(1), keys = k.size(1), heads = q.size(2);
  const auto type = accumulate_type(q);
  const auto index = at::TensorOptions().dtype(at::kLong).device(q.device());
  const at::Tensor position = at::arange(keys - queries, keys, index).unsqueeze(1);
  const at::Tensor distance = position - at::arange(keys, index).unsqueeze(0);  // [L,M]
  at::Tensor score =
      at::matmul(q.to(type).transpose(1, 2), by_head(k, heads, type).transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
  if (alibi_slopes.defined()) score = score - alibi_slopes.to(type).view({heads, 1, 1}) * distance.to(type);
  score = score.masked_fill((distance < 0).logical_or(distance >= window), -std::numeric_limits<double>::infinity());
  return at::matmul(at::softmax(score, -1), by_head(v, heads, type)).transpose(1, 2).to(q.scalar_type());
}

at::Tensor full_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  check_attention("full_attention", q, k, v);
  const auto type = accumulate_type(q);
  const int64_t heads = q.size(2);
  const at::Tensor score =
      at::matmul(q.to(type).transpose(1, 2), by_head(k, heads, type).transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
  return at::matmul(at::softmax(score, -1), by_head(v, heads, type)).transpose(1, 2).to(q.scalar_type());
}

}  // namespace cairn
