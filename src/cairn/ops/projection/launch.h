// Products of few rows with a matrix on a GPU: what the kernel takes. Contract: projection.h. No torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn::projection_cuda {

constexpr int64_t kMostRows = 8;

struct Params {
  const void* x;          // [rows, width], rows x_stride numbers apart; fp32 with a gain, bf16 without
  const float* gain;      // [width] or null: no norm
  const void* w;          // bf16 [outs, width] contiguous; for SwiGLU [2 outs, width]
  const void* bias;       // bf16 [outs] or null
  const float* residual;  // fp32 [rows, outs] contiguous or null
  void* y;                // [rows, outs] contiguous
  int64_t x_stride;
  int rows, width, outs;
  bool swiglu, y_bf16;
  bool ahead;  // ops/cuda/dependent.cuh
};

cudaError_t launch(const Params& params, cudaStream_t stream);

}  // namespace cairn::projection_cuda
