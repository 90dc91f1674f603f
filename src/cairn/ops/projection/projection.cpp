#include "cairn/ops/projection/projection.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>

#include "cairn/core/error.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/step/kernels.h"
#include "cairn/ops/swiglu/swiglu.h"

namespace cairn {
namespace {

void check(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& w) {
  CAIRN_CHECK(x.dim() >= 1 && w.dim() == 2 && w.size(1) == x.size(-1) && (!gain.defined() || gain.numel() == x.size(-1)),
              "product of rows of {} numbers with weights [{},{}]", x.dim() > 0 ? x.size(-1) : 0, w.size(0), w.dim() == 2 ? w.size(1) : 0);
}

const StepKernels* kernels_for(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& w, const at::Tensor& more,
                               at::ScalarType out) {
  if (!x.is_cuda() || at::GradMode::is_enabled()) return nullptr;
  const StepKernels* own = step_kernels();
  return own != nullptr && own->projection_supports != nullptr && own->projection_supports(x, gain, w, more, out) ? own : nullptr;
}

at::Tensor normed(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& w) {
  return gain.defined() ? rms_norm(x, gain, w.scalar_type()) : x;
}

}  // namespace

at::Tensor norm_linear(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& w, const at::Tensor& bias, at::ScalarType out) {
  check(x, gain, w);
  if (const StepKernels* own = kernels_for(x, gain, w, bias, out)) return own->project(x, gain, w, bias, {}, /*swiglu=*/false, out);
  return norm_linear_reference(x, gain, w, bias, out);
}

at::Tensor norm_swiglu(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& w) {
  check(x, gain, w);
  if (const StepKernels* own = kernels_for(x, gain, w, {}, w.scalar_type())) {
    return own->project(x, gain, w, {}, {}, /*swiglu=*/true, w.scalar_type());
  }
  return norm_swiglu_reference(x, gain, w);
}

at::Tensor linear_add(const at::Tensor& x, const at::Tensor& w, const at::Tensor& residual) {
  check(x, {}, w);
  if (residual.scalar_type() == at::kFloat) {
    if (const StepKernels* own = kernels_for(x, {}, w, residual, at::kFloat)) {
      return own->project(x, {}, w, {}, residual, /*swiglu=*/false, at::kFloat);
    }
  }
  return linear_add_reference(x, w, residual);
}

bool linear_add_is_fused(const at::Tensor& x, const at::Tensor& w, const at::Tensor& residual) {
  return residual.scalar_type() == at::kFloat && kernels_for(x, {}, w, residual, at::kFloat) != nullptr;
}

at::Tensor norm_linear_reference(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& w, const at::Tensor& bias,
                                 at::ScalarType out) {
  return at::linear(normed(x, gain, w), w, bias).to(out);
}

at::Tensor norm_swiglu_reference(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& w) {
  return swiglu_joint(at::linear(normed(x, gain, w), w));
}

at::Tensor linear_add_reference(const at::Tensor& x, const at::Tensor& w, const at::Tensor& residual) {
  return residual + at::linear(x, w);
}

}  // namespace cairn
