// Statistics and gradients of rows of logits on a GPU: launches.
#include <ATen/ops/empty.h>

#include "cairn/core/error.h"
#include "cairn/ops/cross_entropy/launch.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"

namespace cairn {
namespace {

bool supports(const at::Tensor& logits) {
  return runs_kernels(logits) && logits.scalar_type() == at::kFloat && logits.is_contiguous() &&
         reinterpret_cast<uintptr_t>(logits.const_data_ptr()) % 16 == 0;
}

cross_entropy_cuda::Params params_of(const at::Tensor& logits, const at::Tensor& target) {
  CAIRN_CHECK(target.is_contiguous() && target.size(0) == logits.size(0), "cross entropy: {} targets of {} rows", target.numel(),
              logits.size(0));
  cross_entropy_cuda::Params p = {};
  p.logits = logits.const_data_ptr<float>();
  p.target = target.const_data_ptr<int64_t>();
  p.rows = logits.size(0), p.vocab = logits.size(1);
  return p;
}

void statistics(const at::Tensor& logits, const at::Tensor& target, const at::Tensor& lse, const at::Tensor& loss,
                const at::Tensor& correct) {
  if (logits.size(0) == 0) return;
  const c10::cuda::CUDAGuard guard(logits.device());
  cross_entropy_cuda::Params p = params_of(logits, target);
  p.lse = lse.mutable_data_ptr<float>(), p.loss = loss.mutable_data_ptr<float>(), p.correct = correct.mutable_data_ptr<bool>();
  check_launch(launch_statistics(p, current_stream()));
}

at::Tensor gradient(const at::Tensor& logits, const at::Tensor& target, const at::Tensor& lse, const at::Tensor& scale,
                    at::ScalarType out) {
  CAIRN_CHECK(out == at::kFloat || out == at::kBFloat16, "cross entropy: gradient in fp32 or bf16");
  const c10::cuda::CUDAGuard guard(logits.device());
  const at::Tensor grad = out == at::kFloat ? logits : at::empty(logits.sizes(), logits.options().dtype(out));
  if (logits.size(0) == 0) return grad;
  cross_entropy_cuda::Params p = params_of(logits, target);
  p.known_lse = lse.const_data_ptr<float>(), p.scale = scale.const_data_ptr<float>();
  p.grad = grad.mutable_data_ptr(), p.grad_bf16 = out == at::kBFloat16;
  check_launch(launch_gradient(p, current_stream()));
  return grad;
}

const bool registered = register_cuda_kernels([](CudaKernels* table) {
  table->cross_entropy_supports = supports;
  table->cross_entropy_statistics = statistics;
  table->cross_entropy_gradient = gradient;
});

}  // namespace
}  // namespace cairn
