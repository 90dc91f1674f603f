#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/rsqrt.h>

#include "cairn/core/error.h"
#include "cairn/ops/norm/norm.h"

namespace cairn {

at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& weight) {
  CAIRN_CHECK(x.dim() >= 1 && weight.dim() == 1 && weight.size(0) == x.size(-1), "rms_norm: weight of {}, last dimension {}",
              weight.numel(), x.dim() ? x.size(-1) : 0);
  const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor xf = x.to(type);
  const at::Tensor scale = at::rsqrt(at::mean(xf * xf, {-1}, /*keepdim=*/true) + kNormEps);
  return (xf * scale * weight.to(type)).to(x.scalar_type());
}

}  // namespace cairn
