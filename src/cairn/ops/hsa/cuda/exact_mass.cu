#include <cuda_bf16.h>

#include <cfloat>
#include <cmath>

#include "cairn/ops/cuda/lanes.cuh"
#include "cairn/ops/hsa/cuda/exact_mass.h"

namespace cairn::hsa_cuda {
namespace {

using cuda::blocks_for;
using cuda::max_lanes;
using cuda::sum_lanes;

constexpr int kRowThreads = 256;

// W lanes a row, K slots a lane, which stay in registers; rows of more slots (K = 0) are read again for each of the three steps, out of the
// cache. Lanes of rows behind the last one go along.
template <int W, int K>
__global__ void __launch_bounds__(kRowThreads) mass_weights_kernel(const __grid_constant__ MassParams p) {
  constexpr int kRows = kRowThreads / W;
  const int lane = threadIdx.x % W;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kRows; first < p.rows; first += static_cast<int64_t>(gridDim.x) * kRows) {
    const int64_t row = first + threadIdx.x / W, N = row < p.rows ? p.N : 0;
    const int64_t of_head = (row / p.H * p.Q + row % p.H / (p.H / p.Q)) * p.N;
    const int64_t* index = p.index + of_head;
    const float *score = p.score + of_head, *lse = p.lse + row * p.N;
    float* weight = p.weight + row * p.N;
    const auto logit = [&](int64_t n) {
      return index[n] < 0 ? -INFINITY : p.alpha == 1 ? lse[n] : p.alpha * lse[n] + (1 - p.alpha) * score[n];
    };
    float most = -FLT_MAX, sum = 0;
    if constexpr (K > 0) {
      float x[K];
#pragma unroll
      for (int k = 0; k < K; ++k) {
        x[k] = k * W + lane < N ? logit(k * W + lane) : -INFINITY;
        most = fmaxf(most, x[k]);
      }
      most = max_lanes<W>(most);
#pragma unroll
      for (int k = 0; k < K; ++k) {
        x[k] = __expf(x[k] - most);
        sum += x[k];
      }
      sum = sum_lanes<W>(sum);
      const float share = sum == 0 ? 0 : 1 / sum;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        if (k * W + lane < N) weight[k * W + lane] = x[k] * share;
      }
    } else {
      for (int64_t n = lane; n < N; n += W) most = fmaxf(most, logit(n));
      most = max_lanes<W>(most);
      for (int64_t n = lane; n < N; n += W) sum += __expf(logit(n) - most);
      sum = sum_lanes<W>(sum);
      const float share = sum == 0 ? 0 : 1 / sum;
      for (int64_t n = lane; n < N; n += W) weight[n] = __expf(logit(n) - most) * share;
    }
  }
}

// A warp a row.
__global__ void __launch_bounds__(kRowThreads) mass_gradient_kernel(const __grid_constant__ MassParams p) {
  constexpr int kRows = kRowThreads / 32;
  const int lane = threadIdx.x % 32;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / 32; row < p.rows;
       row += static_cast<int64_t>(gridDim.x) * kRows) {
    const auto* g = reinterpret_cast<const __nv_bfloat162*>(static_cast<const __nv_bfloat16*>(p.grad_o) + row * p.D);
    const auto* o = reinterpret_cast<const __nv_bfloat162*>(static_cast<const __nv_bfloat16*>(p.o) + row * p.D);
    float dot = 0;
    for (int d = lane; 2 * d < p.D; d += 32) {
      const float2 a = __bfloat1622float2(g[d]), b = __bfloat1622float2(o[d]);
      dot += a.x * b.x + a.y * b.y;
    }
    dot = -p.alpha * sum_lanes<32>(dot);
    for (int64_t n = lane; n < p.N; n += 32) p.grad_lse[row * p.N + n] = dot * p.known_weight[row * p.N + n];
  }
}

template <int W, int K>
void launch_weights(const MassParams& p, cudaStream_t stream) {
  mass_weights_kernel<W, K><<<blocks_for(p.rows, kRowThreads / W), kRowThreads, 0, stream>>>(p);
}

}  // namespace

cudaError_t launch_mass_weights(const MassParams& p, cudaStream_t stream) {
  if (p.N <= 8) {
    launch_weights<8, 1>(p, stream);
  } else if (p.N <= 16) {
    launch_weights<16, 1>(p, stream);
  } else if (p.N <= 32) {
    launch_weights<32, 1>(p, stream);
  } else if (p.N <= 64) {
    launch_weights<32, 2>(p, stream);
  } else if (p.N <= 128) {
    launch_weights<32, 4>(p, stream);
  } else {
    launch_weights<32, 0>(p, stream);
  }
  return cudaGetLastError();
}

cudaError_t launch_mass_gradient(const MassParams& p, cudaStream_t stream) {
  mass_gradient_kernel<<<blocks_for(p.rows, kRowThreads / 32), kRowThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace cairn::hsa_cuda
