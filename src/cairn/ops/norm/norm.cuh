// A row lies over LANES lanes. A lane holds PIECES times eight numbers of the first half and the eight that stand D/2 further: the pairs
// that the rotation turns. Several rows share a warp where they are narrow.
#pragma once

#include "cairn/ops/cuda/dependent.cuh"
#include "cairn/ops/norm/row.cuh"

namespace cairn::norm_cuda {

struct Place {
  int64_t x, flat;  // where the row begins in x and in contiguous tensors
  int64_t table;    // where its angles begin
};
__device__ inline Place place_of(const Params& p, uint32_t row) {
  const uint32_t token = row / static_cast<uint32_t>(p.heads), head = row % static_cast<uint32_t>(p.heads);
  const uint32_t batch = token / static_cast<uint32_t>(p.length), t = token % static_cast<uint32_t>(p.length);
  return {batch * p.x_batch_stride + t * p.x_row_stride + head * p.x_head_stride, row * p.width, t * (p.width / 2)};
}

// (a, b) turned by the angles of eight pairs; `direction` -1 turns back.
__device__ inline void rotate(const Params& p, int64_t at, float direction, float (&a)[kEight], float (&b)[kEight]) {
  float c[kEight], s[kEight];
  load_eight(p.cosine + at, c);
  load_eight(p.sine + at, s);
#pragma unroll
  for (int i = 0; i < kEight; ++i) {
    const float first = a[i] * c[i] - direction * b[i] * s[i], second = b[i] * c[i] + direction * a[i] * s[i];
    a[i] = first;
    b[i] = second;
  }
}

template <typename X, typename Y, int LANES, int PIECES>
__global__ void __launch_bounds__(kThreads) forward_kernel(const __grid_constant__ Params p) {
  constexpr int kRows = kThreads / LANES;
  const int lane = threadIdx.x % LANES;
  const int64_t half = p.width / 2;
  const auto rows = static_cast<uint32_t>(p.rows);
  cuda::let_next_start();
  cuda::wait_for_previous();
  // All lanes of a warp stay for the shuffles; those of rows that are not there compute on zeros.
  for (uint32_t first = blockIdx.x * kRows; first < rows; first += gridDim.x * kRows) {
    const uint32_t row = first + threadIdx.x / LANES;
    const bool here = row < rows;
    const Place at = place_of(p, here ? row : 0);
    float a[PIECES][kEight] = {}, b[PIECES][kEight] = {};
    float sum = 0;
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const int64_t i = (k * LANES + lane) * kEight;
      if (here && i < half) {
        load_eight(static_cast<const X*>(p.x) + at.x + i, a[k]);
        load_eight(static_cast<const X*>(p.x) + at.x + half + i, b[k]);
      }
#pragma unroll
      for (int j = 0; j < kEight; ++j) sum += a[k][j] * a[k][j] + b[k][j] * b[k][j];
    }
    const float scale = rsqrtf(sum_lanes<LANES>(sum) / static_cast<float>(p.width) + kEps);
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const int64_t i = (k * LANES + lane) * kEight;
      if (!here || i >= half) continue;
      float v[kEight], w[kEight];
      load_weight(p, i, v);
      load_weight(p, half + i, w);
#pragma unroll
      for (int j = 0; j < kEight; ++j) {
        a[k][j] *= scale * v[j];
        b[k][j] *= scale * w[j];
      }
      if (p.cosine != nullptr) rotate(p, at.table + i, 1, a[k], b[k]);
      store_eight(static_cast<Y*>(p.y) + at.flat + i, a[k]);
      store_eight(static_cast<Y*>(p.y) + at.flat + half + i, b[k]);
    }
  }
}

// With n = x / rms and h = (gradient turned back) * weight: dx = (h - n mean(h n)) / rms, dweight = sum over rows of (gradient turned back)
// n.
template <typename X, typename Y, int LANES, int PIECES>
__global__ void __launch_bounds__(kThreads, PIECES == 1 ? kBackwardBlocks : 1) backward_kernel(const __grid_constant__ Params p) {
  constexpr int kRows = kThreads / LANES;
  extern __shared__ float total[];  // [D]
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / 32;
  const int64_t half = p.width / 2;
  const auto rows = static_cast<uint32_t>(p.rows);
  float da[PIECES][kEight] = {}, db[PIECES][kEight] = {};
  for (uint32_t first = blockIdx.x * kRows; first < rows; first += gridDim.x * kRows) {
    const uint32_t row = first + threadIdx.x / LANES;
    const bool here = row < rows;
    const Place at = place_of(p, here ? row : 0);
    float a[PIECES][kEight] = {}, b[PIECES][kEight] = {}, ga[PIECES][kEight] = {}, gb[PIECES][kEight] = {};
    float sum = 0;
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const int64_t i = (k * LANES + lane) * kEight;
      if (here && i < half) {
        load_eight(static_cast<const X*>(p.x) + at.x + i, a[k]);
        load_eight(static_cast<const X*>(p.x) + at.x + half + i, b[k]);
        load_eight(static_cast<const Y*>(p.grad) + at.flat + i, ga[k]);
        load_eight(static_cast<const Y*>(p.grad) + at.flat + half + i, gb[k]);
        if (p.cosine != nullptr) rotate(p, at.table + i, -1, ga[k], gb[k]);
      }
#pragma unroll
      for (int j = 0; j < kEight; ++j) sum += a[k][j] * a[k][j] + b[k][j] * b[k][j];
    }
    const float scale = rsqrtf(sum_lanes<LANES>(sum) / static_cast<float>(p.width) + kEps);
    float dot = 0;
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const int64_t i = (k * LANES + lane) * kEight;
      float v[kEight] = {}, w[kEight] = {};
      if (i < half) {
        load_weight(p, i, v);
        load_weight(p, half + i, w);
      }
#pragma unroll
      for (int j = 0; j < kEight; ++j) {
        a[k][j] *= scale;
        b[k][j] *= scale;
        da[k][j] += ga[k][j] * a[k][j];
        db[k][j] += gb[k][j] * b[k][j];
        ga[k][j] *= v[j];
        gb[k][j] *= w[j];
        dot += ga[k][j] * a[k][j] + gb[k][j] * b[k][j];
      }
    }
    const float mean = sum_lanes<LANES>(dot) / static_cast<float>(p.width);
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const int64_t i = (k * LANES + lane) * kEight;
      if (!here || i >= half) continue;
#pragma unroll
      for (int j = 0; j < kEight; ++j) {
        a[k][j] = (ga[k][j] - a[k][j] * mean) * scale;
        b[k][j] = (gb[k][j] - b[k][j] * mean) * scale;
      }
      const int64_t to = (p.grad_like_x ? at.x : at.flat) + i;
      store_eight(static_cast<X*>(p.grad_x) + to, a[k]);
      store_eight(static_cast<X*>(p.grad_x) + to + half, b[k]);
    }
  }
  // The rows of a warp, then the warps in turn: always in the same order.
#pragma unroll
  for (int k = 0; k < PIECES; ++k) {
#pragma unroll
    for (int j = 0; j < kEight; ++j) {
#pragma unroll
      for (int offset = LANES; offset < 32; offset *= 2) {
        da[k][j] += __shfl_xor_sync(0xffffffffu, da[k][j], offset);
        db[k][j] += __shfl_xor_sync(0xffffffffu, db[k][j], offset);
      }
    }
  }
  for (int turn = 0; turn < kWarps; ++turn) {
    if (turn == warp && threadIdx.x % 32 < LANES) {
#pragma unroll
      for (int k = 0; k < PIECES; ++k) {
        const int64_t i = (k * LANES + lane) * kEight;
        if (i >= half) continue;
#pragma unroll
        for (int j = 0; j < kEight; ++j) {
          total[i + j] = (turn == 0 ? 0 : total[i + j]) + da[k][j];
          total[half + i + j] = (turn == 0 ? 0 : total[half + i + j]) + db[k][j];
        }
      }
    }
    __syncthreads();
  }
  for (int64_t i = threadIdx.x; i < p.width; i += kThreads) p.grad_weight[blockIdx.x * p.width + i] = total[i];
}

enum class Pass { kForward, kBackward };

template <typename X, typename Y, int LANES, int PIECES>
cudaError_t launch_shape(Pass pass, const Params& p, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(p.blocks);
  if (pass == Pass::kForward) {
    return cuda::launch_dependent(forward_kernel<X, Y, LANES, PIECES>, dim3(blocks), kThreads, 0, stream, p.ahead, /*cluster=*/1, p);
  }
  backward_kernel<X, Y, LANES, PIECES><<<blocks, kThreads, static_cast<size_t>(p.width) * sizeof(float), stream>>>(p);
  return cudaGetLastError();
}

template <typename X, typename Y>
cudaError_t launch_width(Pass pass, const Params& p, cudaStream_t stream) {
  if (p.width <= 64) return launch_shape<X, Y, 4, 1>(pass, p, stream);
  if (p.width <= 128) return launch_shape<X, Y, 8, 1>(pass, p, stream);
  if (p.width <= 512) return launch_shape<X, Y, 32, 1>(pass, p, stream);
  return launch_shape<X, Y, 32, 2>(pass, p, stream);
}

cudaError_t launch_from_fp32(Pass pass, const Params& p, cudaStream_t stream);
cudaError_t launch_from_bf16(Pass pass, const Params& p, cudaStream_t stream);

}  // namespace cairn::norm_cuda
