#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include "cairn/core/error.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/rotary/rotary.h"

namespace cairn {

at::Tensor norm_rotate_reference(const at::Tensor& x, const at::Tensor& weight, const RotaryTable& table) {
  CAIRN_CHECK(x.dim() == 4, "norm_rotate: x has {} dimensions, not 4", x.dim());
  const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor y = rms_norm_reference(x.to(type), weight);
  if (!table.cosine.defined()) return y.to(x.scalar_type());
  const int64_t half = x.size(3) / 2;
  CAIRN_CHECK(x.size(3) == 2 * half && table.cosine.size(0) == x.size(1) && table.cosine.size(1) == half,
              "norm_rotate: table of {} positions and {} frequencies for x of {} and {}", table.cosine.size(0), table.cosine.size(1),
              x.size(1), half);
  const at::Tensor c = table.cosine.to(type).unsqueeze(1), s = table.sine.to(type).unsqueeze(1);  // [L,1,D/2]
  const at::Tensor a = y.narrow(3, 0, half), b = y.narrow(3, half, half);
  return at::cat({a * c - b * s, a * s + b * c}, 3).to(x.scalar_type());
}

}  // namespace cairn
