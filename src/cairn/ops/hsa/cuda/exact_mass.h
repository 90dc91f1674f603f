// What lies around memory attention with exact-mass weights (ops/hsa/exact_mass.h), row by row; a row: (b, t, h).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn::hsa_cuda {

struct MassParams {
  int64_t rows = 0;                              // B L H
  int64_t H = 1, Q = 1, N = 0, D = 0;            // Q heads of score and index
  const int64_t* index = nullptr;                // [B,L,Q,N]; below 0: unused
  const float *lse = nullptr, *score = nullptr;  // [B,L,H,N], [B,L,Q,N]
  float alpha = 1;
  float* weight = nullptr;  // [B,L,H,N], all of it is written

  const void *grad_o = nullptr, *o = nullptr;  // bf16 [B,L,H,D], 4-byte aligned, D even
  const float* known_weight = nullptr;
  float* grad_lse = nullptr;  // -alpha w <g,o>, [B,L,H,N]
};

// All tensors contiguous.
cudaError_t launch_mass_weights(const MassParams& p, cudaStream_t stream);
cudaError_t launch_mass_gradient(const MassParams& p, cudaStream_t stream);

}  // namespace cairn::hsa_cuda
