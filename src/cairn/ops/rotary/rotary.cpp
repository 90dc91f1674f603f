#include "cairn/ops/rotary/rotary.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sin.h>

#include "cairn/core/error.h"
#include "cairn/ops/norm/fused.h"
#include "cairn/ops/step/kernels.h"

namespace cairn {

namespace {

// position int64 [L].
RotaryTable table_of(const at::Tensor& position, int64_t head_dim, double theta, at::ScalarType dtype) {
  const auto type = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor frequency =
      at::pow(theta, at::arange(0, head_dim, 2, position.options().dtype(at::kDouble)) / static_cast<double>(-head_dim));
  // cos and sin of fp64 reduce modulo 2 pi exactly by themselves; only the finished values are rounded.
  const at::Tensor angle = position.to(at::kDouble).unsqueeze(1) * frequency;
  return {at::cos(angle).to(type), at::sin(angle).to(type)};
}

}  // namespace

RotaryTable rotary_table(int64_t first, int64_t length, int64_t head_dim, double theta, at::Device device, at::ScalarType dtype) {
  CAIRN_CHECK(first >= 0 && length >= 0 && head_dim >= 2 && head_dim % 2 == 0 && theta > 0,
              "rotary_table: first {}, length {}, head width {}, theta {}", first, length, head_dim, theta);
  CAIRN_CHECK(first <= (int64_t{1} << 52) - length, "rotary_table: position {} is not exact in fp64", first + length);
  const at::NoGradGuard no_grad;
  return table_of(at::arange(first, first + length, at::TensorOptions().dtype(at::kLong).device(device)), head_dim, theta, dtype);
}

RotaryTable rotary_table(const at::Tensor& first, int64_t length, int64_t head_dim, double theta, at::ScalarType dtype) {
  CAIRN_CHECK(first.dim() == 0 && first.scalar_type() == at::kLong && head_dim >= 2 && head_dim % 2 == 0 && theta > 0,
              "rotary_table: a first position of {} dimensions", first.dim());
  const StepKernels* own = first.is_cuda() && dtype != at::kDouble ? step_kernels() : nullptr;
  if (own != nullptr && own->rotary_supports != nullptr && own->rotary_supports(first, length))
    return own->rotary(first, length, head_dim, theta);
  const at::NoGradGuard no_grad;
  return table_of(first + at::arange(length, first.options()), head_dim, theta, dtype);
}

at::Tensor norm_rotate(const at::Tensor& x, const at::Tensor& weight, const RotaryTable& table) {
  CAIRN_CHECK(x.dim() == 4 && weight.dim() == 1 && weight.size(0) == x.size(3), "norm_rotate: x has {} dimensions, weight {} numbers",
              x.dim(), weight.numel());
  if (!fused_norm_serves(x, x.scalar_type())) return norm_rotate_reference(x, weight, table);
  if (table.cosine.defined())
    CAIRN_CHECK(table.cosine.size(0) == x.size(1) && 2 * table.cosine.size(1) == x.size(3) && table.sine.sizes() == table.cosine.sizes(),
                "norm_rotate: table of {} positions and {} frequencies for x of {} and {}", table.cosine.size(0), table.cosine.size(1),
                x.size(1), x.size(3));
  return fused_norm(x, weight, table.cosine, table.sine, x.scalar_type());
}

}  // namespace cairn
