#include "cairn/ops/quantize/rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>

#include <limits>

#include "cairn/core/error.h"

namespace cairn {

Int8Rows quantize_rows(const at::Tensor& x_in) {
  CAIRN_CHECK(x_in.dim() >= 1 && x_in.size(-1) >= 1 && (x_in.scalar_type() == at::kFloat || x_in.scalar_type() == at::kBFloat16),
              "rows of {} dimensions", x_in.dim());
  constexpr float kShare = 1.0F / 127, kLeast = 0x1p-126F;
  const at::Tensor x = x_in.to(at::kFloat), largest = x.abs().amax(-1);  // a NaN stays one
  at::Tensor scale = (largest * kShare).to(at::kBFloat16).clamp_min_(kLeast);
  scale.masked_fill_(largest.isfinite().logical_not_(), std::numeric_limits<double>::quiet_NaN());
  at::Tensor number = x / scale.to(at::kFloat).unsqueeze(-1);
  number.nan_to_num_(0).round_().clamp_(-127, 127);
  return {number.to(at::kChar), scale};
}

at::Tensor dequantize_rows(const at::Tensor& numbers, const at::Tensor& scale, at::ScalarType type) {
  CAIRN_CHECK(numbers.scalar_type() == at::kChar && scale.scalar_type() == at::kBFloat16 && scale.dim() + 1 == numbers.dim(),
              "8-bit rows of {} dimensions, scales of {}", numbers.dim(), scale.dim());
  CAIRN_CHECK(type == at::kFloat || type == at::kBFloat16, "8-bit rows as fp32 or bf16");
  return numbers.to(type).mul_(scale.to(type).unsqueeze(-1));
}

}  // namespace cairn
