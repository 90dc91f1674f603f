// The choice from given scores on a GPU (given.cu): checks and the launch.
#include <ATen/ops/empty.h>

#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/select/launch.h"
#include "cairn/ops/select/noise.h"

namespace cairn {
namespace {

bool supports(const at::Tensor& score, int64_t n) {
  return runs_kernels(score) && score.scalar_type() == at::kFloat && n >= 1 && n <= select_cuda::kMostGivenChosen &&
         score.size(3) <= select_cuda::kMostGivenChunks;
}

Selection select(const at::Tensor& score_in, int64_t n, const Visibility& visibility, uint64_t noise_key, int64_t first_row) {
  const c10::cuda::CUDAGuard guard(score_in.device());
  const at::Tensor score = score_in.contiguous();
  const int64_t B = score.size(0), L = score.size(1), Q = score.size(2);
  const Selection out = {at::empty({B, L, Q, n}, score.options().dtype(at::kLong)), at::empty({B, L, Q, n}, score.options())};
  if (out.index.numel() == 0) return out;
  select_cuda::GivenParams p = {};
  p.score = score.const_data_ptr<float>();
  p.count = B * L * Q, p.rows = L, p.heads = Q, p.chunks = score.size(3), p.n = n;
  p.position = visibility.first_position + (visibility.exclude_window > 0 ? 1 - visibility.exclude_window : 0);
  p.chunk = visibility.chunk, p.first_chunk = visibility.first_chunk;
  at::Tensor table;
  if (noise_key != 0) {
    table = gumbel_quantiles(score.device());
    p.quantiles = table.const_data_ptr<float>();
    p.noise_key = noise_key, p.noise_row = first_row, p.noise_position = visibility.first_position;
    const at::Tensor& more = NoiseRowOnDevice::current();
    if (more.defined()) p.noise_row_more = more.const_data_ptr<int64_t>();
  }
  p.index = out.index.mutable_data_ptr<int64_t>();
  p.chosen_score = out.score.mutable_data_ptr<float>();
  check_launch(launch_given(p, current_stream()));
  return out;
}

const bool registered = register_cuda_kernels([](CudaKernels* table) {
  table->select_given_supports = supports;
  table->select_given = select;
});

}  // namespace
}  // namespace cairn
