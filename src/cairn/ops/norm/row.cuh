// What the kernels of norms share: their shape, sums over the lanes of a row, the gain.
#pragma once

#include "cairn/ops/cuda/vector.cuh"
#include "cairn/ops/norm/launch.h"

namespace cairn::norm_cuda {

using cuda::kEight;
using cuda::load_eight;
using cuda::store_eight;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr float kEps = 1e-6f;

template <int LANES>
__device__ inline float sum_lanes(float x) {
#pragma unroll
  for (int offset = LANES / 2; offset >= 1; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

template <typename P>  // Params or AddParams
__device__ inline void load_weight(const P& p, int64_t at, float (&w)[kEight]) {
  if (p.weight_bf16) {
    load_eight(static_cast<const __nv_bfloat16*>(p.weight) + at, w);
  } else {
    load_eight(static_cast<const float*>(p.weight) + at, w);
  }
}

}  // namespace cairn::norm_cuda
