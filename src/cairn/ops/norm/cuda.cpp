// On a GPU: ATen's fused RMSNorm, and the rotation as four element-wise kernels on halves of the result, in place where that is possible.
#include <ATen/TensorOperators.h>
#include <ATen/ops/_fused_rms_norm.h>
#include <ATen/ops/_fused_rms_norm_backward.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros_like.h>

#include "cairn/ops/norm/fused.h"
#include "cairn/ops/norm/norm.h"

namespace cairn {
namespace {

// y [B,L,H,D] turned by the angles (direction 1) or back (-1).
at::Tensor rotate(const at::Tensor& y, const at::Tensor& cosine, const at::Tensor& sine, double direction) {
  const int64_t half = y.size(3) / 2;
  const at::Tensor c = cosine.unsqueeze(1), s = sine.unsqueeze(1);  // [L,1,D/2], for all sequences and heads
  const at::Tensor a = y.narrow(3, 0, half), b = y.narrow(3, half, half);
  at::Tensor out = at::empty_like(y);
  at::Tensor first = out.narrow(3, 0, half), second = out.narrow(3, half, half);
  at::mul_out(first, a, c);
  first.addcmul_(b, s, -direction);
  at::mul_out(second, b, c);
  second.addcmul_(a, s, direction);
  return out;
}

}  // namespace

NormForward norm_forward_cuda(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& cosine, const at::Tensor& sine,
                              at::ScalarType out) {
  auto [y, scale] = at::_fused_rms_norm(x.contiguous(), {x.size(3)}, weight.to(x.scalar_type()), kNormEps);
  if (cosine.defined()) y = rotate(y, cosine, sine, 1);
  return {y.to(out), scale};
}

std::tuple<at::Tensor, at::Tensor> norm_backward_cuda(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                                                      const at::Tensor& cosine, const at::Tensor& sine, const at::Tensor& scale) {
  if (x.numel() == 0) return {at::empty_like(x), at::zeros_like(weight)};
  at::Tensor g = grad.to(x.scalar_type()).contiguous();
  if (cosine.defined()) g = rotate(g, cosine, sine, -1);
  auto [dx, dw] = at::_fused_rms_norm_backward(g, x.contiguous(), {x.size(3)}, scale, weight.to(x.scalar_type()), {true, true});
  return {dx, dw.to(weight.scalar_type())};
}

}  // namespace cairn
