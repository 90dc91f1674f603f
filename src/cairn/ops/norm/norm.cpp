#include "cairn/ops/norm/norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>

#include "cairn/core/error.h"

namespace cairn {

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, at::ScalarType out) {
  // The wider of the two types carries the numbers until the one rounding at the end.
  const auto type = at::promote_types(x.scalar_type(), out);
  return rms_norm_reference(x.to(type), weight).to(out);
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight) { return rms_norm(x, weight, x.scalar_type()); }

at::Tensor head_rms_norm(const at::Tensor& x, const at::Tensor& weight, int64_t heads) {
  CAIRN_CHECK(heads >= 1 && x.size(-1) % heads == 0 && weight.dim() == 1 && weight.size(0) == x.size(-1),
              "head_rms_norm: {} numbers, {} heads, weight of {}", x.size(-1), heads, weight.numel());
  if (heads == 1) return rms_norm(x, weight);
  const int64_t width = x.size(-1) / heads;
  const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor parts = x.to(type).unflatten(-1, {heads, width});
  const at::Tensor ones = at::ones({width}, parts.options());
  return (rms_norm_reference(parts, ones) * weight.to(type).view({heads, width})).flatten(-2).to(x.scalar_type());
}

}  // namespace cairn
