// RMSNorm: y = x / sqrt(mean(x^2) + 1e-6) * weight over the last dimension; statistics in fp32 (fp64 in fp64). Differentiable.
#pragma once

#include <ATen/core/Tensor.h>

namespace cairn {

inline constexpr double kNormEps = 1e-6;

// x [..., d] any float dtype, weight [d]; result in `out` dtype (default: that of x).
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, at::ScalarType out);
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight);
// Each of `heads` equal parts of the last dimension by itself; weight [d] holds heads gain vectors one after another.
at::Tensor head_rms_norm(const at::Tensor& x, const at::Tensor& weight, int64_t heads);
// A residual sum and the norm behind it: sum = x + delta in x's dtype, y = rms_norm(sum) in `out`. x and delta [..., d] of equal shape;
// delta undefined: sum is x itself. On a GPU one kernel each way for fp32 x, bf16 delta and y.
struct AddNorm {
  at::Tensor sum, y;
};
AddNorm add_rms_norm(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& weight, at::ScalarType out);
at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& weight);

}  // namespace cairn
