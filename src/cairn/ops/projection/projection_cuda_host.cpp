// Checks, result and stream of the kernel for few rows.
#include <ATen/ops/empty.h>

#include <array>
#include <atomic>
#include <limits>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/hopper.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/projection/launch.h"
#include "cairn/ops/step/kernels.h"

namespace cairn {
namespace {

static_assert(kNormEps == 1e-6);
constexpr int64_t kAlignment = 16;

bool is_aligned(const at::Tensor& x) { return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % kAlignment == 0; }

// Leading dimensions as one: the rows' distance in numbers, or 0 if they have none.
int64_t row_stride(const at::Tensor& x) {
  if (x.stride(-1) != 1) return 0;
  int64_t rows = 1, stride = x.size(-1);
  bool first = true;
  for (int64_t d = x.dim() - 2; d >= 0; --d) {
    if (x.size(d) == 1) continue;
    if (first) stride = x.stride(d);
    if (x.stride(d) != stride * rows) return 0;
    first = false;
    rows *= x.size(d);
  }
  return stride;
}

// more: bias (bf16) or residual (fp32) or undefined.
bool supports(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& w, const at::Tensor& more, at::ScalarType out) {
  const int64_t width = x.size(-1);
  if (width == 0 || x.numel() == 0 || x.numel() / width > projection_cuda::kMostRows || !runs_hopper(x)) return false;
  if (w.scalar_type() != at::kBFloat16 || !w.is_contiguous() || w.device() != x.device() || !is_aligned(w)) return false;
  if (x.scalar_type() != (gain.defined() ? at::kFloat : at::kBFloat16) || !is_aligned(x)) return false;
  if (gain.defined() && (gain.scalar_type() != at::kFloat || !gain.is_contiguous() || !is_aligned(gain) || gain.device() != x.device())) {
    return false;
  }
  const int64_t stride = row_stride(x);
  if (more.defined() && (!more.is_contiguous() || more.device() != x.device())) return false;
  return (out == at::kFloat || out == at::kBFloat16) && width % 8 == 0 && stride != 0 && stride * x.element_size() % kAlignment == 0 &&
         width < std::numeric_limits<int32_t>::max() && w.size(0) < std::numeric_limits<int32_t>::max();
}

at::Tensor project(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& w, const at::Tensor& bias, const at::Tensor& residual,
                   bool swiglu, at::ScalarType out) {
  const c10::cuda::CUDAGuard guard(x.device());
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = swiglu ? w.size(0) / 2 : w.size(0);
  CAIRN_CHECK(!swiglu || (gain.defined() && w.size(0) % 2 == 0), "SwiGLU of {} rows of weights", w.size(0));
  const at::Tensor y = at::empty(sizes, x.options().dtype(out));
  if (y.numel() == 0) return y;
  projection_cuda::Params p = {};
  p.x = x.const_data_ptr();
  p.x_stride = row_stride(x);
  p.gain = gain.defined() ? gain.const_data_ptr<float>() : nullptr;
  p.w = w.const_data_ptr();
  if (bias.defined()) {
    CAIRN_CHECK(bias.scalar_type() == at::kBFloat16 && bias.numel() == sizes.back(), "bias of {} numbers", bias.numel());
    p.bias = bias.const_data_ptr();
  }
  if (residual.defined()) {
    CAIRN_CHECK(residual.scalar_type() == at::kFloat && residual.sizes() == y.sizes(), "residual of {} numbers", residual.numel());
    p.residual = residual.const_data_ptr<float>();
  }
  p.y = y.mutable_data_ptr();
  p.rows = static_cast<int>(x.numel() / x.size(-1));
  p.width = static_cast<int>(x.size(-1));
  p.outs = static_cast<int>(sizes.back());
  p.swiglu = swiglu;
  p.ahead = StepRecording::runs_ahead();
  p.y_bf16 = out == at::kBFloat16;
  check_launch(projection_cuda::launch(p, current_stream()));
  return y;
}

[[maybe_unused]] const bool registered = register_step_kernels([](StepKernels* table) {
  table->projection_supports = supports;
  table->project = project;
});

}  // namespace
}  // namespace cairn
