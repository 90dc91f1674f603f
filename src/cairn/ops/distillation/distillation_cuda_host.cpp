// Landmark distillation on a GPU: checks and launches (rows.cu).
#include <ATen/ops/empty.h>

#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/distillation/launch.h"

namespace cairn {
namespace {

bool supports(const at::Tensor& lse, const at::Tensor& score) {
  return runs_kernels(score) && lse.scalar_type() == at::kFloat && score.scalar_type() == at::kFloat &&
         lse.size(2) <= distillation_cuda::kMostHeads;
}

distillation_cuda::Params shape_of(const at::Tensor& score, int64_t chunk) {
  distillation_cuda::Params p = {};
  p.length = score.size(1), p.chunks = score.size(2), p.chunk = chunk, p.rows = score.size(0) * score.size(1);
  return p;
}

at::Tensor side_by_side(const at::Tensor& x) { return x.size(-1) <= 1 || x.stride(-1) == 1 ? x : x.contiguous(); }

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& lse_in, const at::Tensor& score_in, int64_t chunk, bool nearest_first,
                                           bool want_slope) {
  const c10::cuda::CUDAGuard guard(score_in.device());
  const at::Tensor lse = side_by_side(lse_in), score = side_by_side(score_in);
  const at::Tensor out = at::empty({score.size(0), score.size(1)}, score.options().requires_grad(false));
  const at::Tensor slope = want_slope ? at::empty(score.sizes(), out.options()) : at::Tensor();
  if (out.numel() == 0) return {out, slope};
  distillation_cuda::Params p = shape_of(score, chunk);
  p.heads = lse.size(2), p.nearest_first = nearest_first;
  p.lse = lse.const_data_ptr<float>(), p.score = score.const_data_ptr<float>();
  p.lse_b = lse.stride(0), p.lse_t = lse.stride(1), p.lse_h = lse.stride(2);
  p.score_b = score.stride(0), p.score_t = score.stride(1);
  p.out = out.mutable_data_ptr<float>();
  if (want_slope) p.slope = slope.mutable_data_ptr<float>();
  check_launch(launch_forward(p, current_stream()));
  return {out, slope};
}

at::Tensor backward(const at::Tensor& grad, const at::Tensor& slope, int64_t chunk) {
  const c10::cuda::CUDAGuard guard(slope.device());
  const at::Tensor dscore = at::empty(slope.sizes(), slope.options());
  if (dscore.numel() == 0) return dscore;
  distillation_cuda::Params p = shape_of(slope, chunk);
  p.grad = grad.const_data_ptr<float>(), p.known_slope = slope.const_data_ptr<float>();
  p.grad_b = grad.stride(0), p.grad_t = grad.stride(1);
  p.grad_score = dscore.mutable_data_ptr<float>();
  check_launch(launch_backward(p, current_stream()));
  return dscore;
}

[[maybe_unused]] const bool registered = register_cuda_kernels([](CudaKernels* table) {
  table->distillation_supports = supports;
  table->distillation_forward = forward;
  table->distillation_backward = backward;
});

}  // namespace
}  // namespace cairn
