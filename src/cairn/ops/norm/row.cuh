// What the kernels of norms share: their shape, the gain.
#pragma once

#include "cairn/ops/cuda/lanes.cuh"
#include "cairn/ops/cuda/vector.cuh"
#include "cairn/ops/norm/launch.h"

namespace cairn::norm_cuda {

using cuda::kEight;
using cuda::load_eight;
using cuda::store_eight;
using cuda::sum_lanes;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr float kEps = 1e-6f;

template <typename P>  // Params or AddParams
__device__ inline void load_weight(const P& p, int64_t at, float (&w)[kEight]) {
  if (p.weight_bf16) {
    load_eight(static_cast<const __nv_bfloat16*>(p.weight) + at, w);
  } else {
    load_eight(static_cast<const float*>(p.weight) + at, w);
  }
}

}  // namespace cairn::norm_cuda
