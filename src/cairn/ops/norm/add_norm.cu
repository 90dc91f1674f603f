// The residual sum and the RMSNorm behind it, each way in one kernel. A warp takes a row; a lane holds PIECES times eight numbers.
#include "cairn/ops/norm/row.cuh"

namespace cairn::norm_cuda {
namespace {

using cuda::unpack_eight;

constexpr int kLanes = 32;
constexpr int64_t kStep = kLanes * kEight;  // numbers that a warp holds a piece

template <typename X, int PIECES>
__global__ void __launch_bounds__(kThreads) forward_kernel(const __grid_constant__ AddParams p) {
  const int lane = threadIdx.x % kLanes;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes; row < p.rows; row += step) {
    float x[PIECES][kEight] = {};
    float square = 0;
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const int64_t i = k * kStep + lane * kEight, at = row * p.width + i;
      if (i >= p.width) continue;
      float delta[kEight];
      load_eight(static_cast<const X*>(p.x) + at, x[k]);
      load_eight(static_cast<const __nv_bfloat16*>(p.delta) + at, delta);
#pragma unroll
      for (int j = 0; j < kEight; ++j) x[k][j] += delta[j];
      store_eight(static_cast<X*>(p.sum) + at, x[k]);
      // The norm is that of the sum as it was stored.
      if constexpr (sizeof(X) == 2) {
#pragma unroll
        for (int j = 0; j < kEight; ++j) x[k][j] = __bfloat162float(__float2bfloat16_rn(x[k][j]));
      }
#pragma unroll
      for (int j = 0; j < kEight; ++j) square += x[k][j] * x[k][j];
    }
    const float scale = rsqrtf(sum_lanes<kLanes>(square) / static_cast<float>(p.width) + kEps);
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const int64_t i = k * kStep + lane * kEight;
      if (i >= p.width) continue;
      float w[kEight];
      load_weight(p, i, w);
#pragma unroll
      for (int j = 0; j < kEight; ++j) x[k][j] *= scale * w[j];
      store_eight(static_cast<__nv_bfloat16*>(p.y) + row * p.width + i, x[k]);
    }
  }
}

// What a row's gradient is made of, as it lies in memory: fetched one row ahead, so that a warp always has loads on the way.
template <int PIECES>
struct Fetched {
  float4 x[PIECES][2], grad_sum[PIECES][2];
  uint4 grad[PIECES];
};

template <int PIECES, bool SUM>
__device__ inline void fetch(const AddParams& p, int64_t row, int lane, Fetched<PIECES>& f) {
#pragma unroll
  for (int k = 0; k < PIECES; ++k) {
    const int64_t i = k * kStep + lane * kEight, at = row * p.width + i;
    const bool there = row < p.rows && i < p.width;
    f.grad[k] = there ? *reinterpret_cast<const uint4*>(p.grad + at) : uint4{};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      f.x[k][half] = there ? reinterpret_cast<const float4*>(static_cast<const float*>(p.x) + at)[half] : float4{};
      if constexpr (SUM) f.grad_sum[k][half] = there ? reinterpret_cast<const float4*>(p.grad_sum + at)[half] : float4{};
    }
  }
}

// With n = x / rms, x the stored sum, and h = grad * weight: d = grad_sum + (h - n mean(h n)) / rms is the gradient of both terms.
template <int PIECES, bool SUM>
__global__ void __launch_bounds__(kThreads, PIECES <= 2 ? 2 : 1) backward_kernel(const __grid_constant__ AddParams p) {
  extern __shared__ float total[];  // [width]
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  float dw[PIECES][kEight] = {};
  int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  Fetched<PIECES> next;
  fetch<PIECES, SUM>(p, row, lane, next);
  for (; row < p.rows; row += step) {
    const Fetched<PIECES> here = next;
    fetch<PIECES, SUM>(p, row + step, lane, next);
    float x[PIECES][kEight], g[PIECES][kEight];
    float square = 0, dot = 0;
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      unpack_eight(here.x[k][0], here.x[k][1], x[k]);
      unpack_eight(here.grad[k], g[k]);
#pragma unroll
      for (int j = 0; j < kEight; ++j) square += x[k][j] * x[k][j];
    }
    const float scale = rsqrtf(sum_lanes<kLanes>(square) / static_cast<float>(p.width) + kEps);
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const int64_t i = k * kStep + lane * kEight;
      float w[kEight] = {};
      if (i < p.width) load_weight(p, i, w);
#pragma unroll
      for (int j = 0; j < kEight; ++j) {
        x[k][j] *= scale;
        dw[k][j] += g[k][j] * x[k][j];
        g[k][j] *= w[j];
        dot += g[k][j] * x[k][j];
      }
    }
    const float mean = sum_lanes<kLanes>(dot) / static_cast<float>(p.width);
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const int64_t i = k * kStep + lane * kEight, at = row * p.width + i;
      if (i >= p.width) continue;
      float d[kEight] = {};
      if constexpr (SUM) unpack_eight(here.grad_sum[k][0], here.grad_sum[k][1], d);
#pragma unroll
      for (int j = 0; j < kEight; ++j) d[j] += (g[k][j] - x[k][j] * mean) * scale;
      store_eight(p.grad_x + at, d);
      store_eight(static_cast<__nv_bfloat16*>(p.grad_delta) + at, d);
    }
  }
  // The warps in turn: always in the same order.
  for (int turn = 0; turn < kWarps; ++turn) {
    if (turn == warp) {
#pragma unroll
      for (int k = 0; k < PIECES; ++k) {
        const int64_t i = k * kStep + lane * kEight;
        if (i >= p.width) continue;
#pragma unroll
        for (int j = 0; j < kEight; ++j) total[i + j] = (turn == 0 ? 0 : total[i + j]) + dw[k][j];
      }
    }
    __syncthreads();
  }
  for (int64_t i = threadIdx.x; i < p.width; i += kThreads) p.grad_weight[blockIdx.x * p.width + i] = total[i];
}

template <int PIECES>
cudaError_t forward_of(const AddParams& p, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(p.blocks);
  if (p.x_bf16) {
    forward_kernel<__nv_bfloat16, PIECES><<<blocks, kThreads, 0, stream>>>(p);
  } else {
    forward_kernel<float, PIECES><<<blocks, kThreads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

template <int PIECES>
cudaError_t backward_of(const AddParams& p, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(p.blocks);
  const size_t shared = static_cast<size_t>(p.width) * sizeof(float);
  if (p.grad_sum != nullptr) {
    backward_kernel<PIECES, true><<<blocks, kThreads, shared, stream>>>(p);
  } else {
    backward_kernel<PIECES, false><<<blocks, kThreads, shared, stream>>>(p);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_add_forward(const AddParams& p, cudaStream_t stream) {
  if (p.width <= kStep) return forward_of<1>(p, stream);
  if (p.width <= 2 * kStep) return forward_of<2>(p, stream);
  return forward_of<4>(p, stream);
}

cudaError_t launch_add_backward(const AddParams& p, cudaStream_t stream) {
  if (p.width <= kStep) return backward_of<1>(p, stream);
  if (p.width <= 2 * kStep) return backward_of<2>(p, stream);
  return backward_of<4>(p, stream);
}

}  // namespace cairn::norm_cuda
