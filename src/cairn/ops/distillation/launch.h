// Landmark distillation on a GPU: what the kernels take. Contract: distillation.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn::distillation_cuda {

constexpr int64_t kMostHeads = 4096;  // statistics of a row's heads lie in shared memory

struct Params {
  int64_t length, chunks, chunk, rows;  // L, C, S >= 1, B L
  // Forward.
  int64_t heads;                // 1 .. kMostHeads
  const float *lse, *score;     // [B,L,H,C], [B,L,C]; chunks lie side by side
  int64_t lse_b, lse_t, lse_h;  // steps in numbers
  int64_t score_b, score_t;
  bool nearest_first;  // order of lse's chunks
  float* out;          // [rows]
  float* slope;        // d out / d score, [rows, chunks], or null; only visible chunks are written
  // Backward.
  const float *grad, *known_slope;  // [B,L] with steps; forward's slope
  int64_t grad_b, grad_t;
  float* grad_score;  // [rows, chunks], all of it is written
};

cudaError_t launch_forward(const Params& params, cudaStream_t stream);
cudaError_t launch_backward(const Params& params, cudaStream_t stream);

}  // namespace cairn::distillation_cuda
