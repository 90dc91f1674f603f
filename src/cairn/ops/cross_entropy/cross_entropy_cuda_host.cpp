// Checks and stream of the cross-entropy kernels.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <limits>

#include "cairn/ops/cross_entropy/launch.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"

namespace cairn {
namespace {

bool supports(const at::Tensor& logits) {
  return runs_kernels(logits) && logits.scalar_type() == at::kFloat && logits.dim() == 2 && logits.is_contiguous() && logits.size(0) > 0 &&
         logits.size(1) % 4 == 0 && logits.size(1) > 0 && logits.size(0) <= std::numeric_limits<int>::max() &&
         logits.size(1) <= std::numeric_limits<int>::max() && reinterpret_cast<uintptr_t>(logits.const_data_ptr()) % 16 == 0;
}

LogitRows arguments(const at::Tensor& logits, const at::Tensor& target) {
  LogitRows a;
  a.logits = logits.const_data_ptr<float>();
  a.target = target.const_data_ptr<int64_t>();
  a.rows = logits.size(0);
  a.vocab = static_cast<int>(logits.size(1));
  return a;
}

void statistics(const at::Tensor& logits, const at::Tensor& target, at::Tensor& lse, at::Tensor& loss, at::Tensor& correct) {
  const c10::cuda::CUDAGuard guard(logits.device());
  LogitRows a = arguments(logits, target);
  a.lse = lse.mutable_data_ptr<float>();
  a.loss = loss.mutable_data_ptr<float>();
  a.correct = correct.mutable_data_ptr<bool>();
  check_launch(launch_logit_statistics(a, current_stream()));
}

at::Tensor gradient(const at::Tensor& logits, const at::Tensor& lse, const at::Tensor& target, const at::Tensor& g, at::ScalarType type) {
  const c10::cuda::CUDAGuard guard(logits.device());
  at::Tensor out = at::empty(logits.sizes(), logits.options().dtype(type));
  LogitRows a = arguments(logits, target);
  a.lse = const_cast<float*>(lse.const_data_ptr<float>());
  a.scale = g.const_data_ptr<float>();
  a.gradient = out.mutable_data_ptr();
  a.bf16 = type == at::kBFloat16;
  check_launch(launch_logit_gradient(a, current_stream()));
  return out;
}

[[maybe_unused]] const bool registered = register_cuda_kernels([](CudaKernels* table) {
  table->cross_entropy_supports = supports;
  table->cross_entropy_statistics = statistics;
  table->cross_entropy_gradient = gradient;
});

}  // namespace
}  // namespace cairn
