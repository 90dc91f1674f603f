// What kernels that give each row some lanes of a warp share: sums and maxima over those lanes, and how many thread blocks to start.
#pragma once

#include <cstdint>

namespace cairn::cuda {

// Over LANES neighbouring lanes, a power of two; every one of them gets the result, and all of the warp take part.
template <int LANES>
__device__ inline float sum_lanes(float x) {
#pragma unroll
  for (int offset = LANES / 2; offset >= 1; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
template <int LANES>
__device__ inline float max_lanes(float x) {
#pragma unroll
  for (int offset = LANES / 2; offset >= 1; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// Thread blocks for `work` at `a_block` each; a million at most, so kernels go on in steps of the grid.
inline unsigned blocks_for(int64_t work, int64_t a_block) {
  constexpr int64_t kMost = 1 << 20;
  const int64_t blocks = (work + a_block - 1) / a_block;
  return static_cast<unsigned>(blocks < kMost ? blocks : kMost);
}

}  // namespace cairn::cuda
