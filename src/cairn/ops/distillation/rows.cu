// Rows of landmark distillation. The masses are read once: a warp takes a row, a group of its lanes a head, and what a lane has read stays
// in its registers until the head's sum is known, when it is added to the lane's share of p. Rows of more chunks than that has room for are
// taken by a thread block, which reads them a second time, out of the cache. The gradient of a row is written where both softmaxes are at
// hand; the backward only multiplies it. All sums have a fixed order.
#include <cfloat>
#include <cmath>

#include "cairn/ops/cuda/lanes.cuh"
#include "cairn/ops/distillation/launch.h"

namespace cairn::distillation_cuda {
namespace {

using cuda::blocks_for;
using cuda::max_lanes;
using cuda::sum_lanes;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kAll = 0xffffffffu;

struct Row {
  const float *lse, *score;
  int64_t visible;
};

__device__ inline int64_t visible_of(const Params& p, int64_t t) {
  const int64_t complete = t / p.chunk;
  return complete < p.chunks ? complete : p.chunks;
}

__device__ inline Row row_of(const Params& p, int64_t row) {
  const int64_t b = row / p.length, t = row % p.length;
  return {p.lse + b * p.lse_b + t * p.lse_t, p.score + b * p.score_b + t * p.score_t, visible_of(p, t)};
}

// Chunk in slot i of the masses.
__device__ inline int64_t chunk_of(const Params& p, int64_t visible, int64_t slot) { return p.nearest_first ? visible - 1 - slot : slot; }

// What a chunk adds to the loss: 0 where it has no mass, whatever its score. (NaN is not 0 and stays.)
__device__ inline float term(float mass, float log_p) { return mass == 0 ? 0 : -mass * log_p; }

// W lanes a head, K chunks a lane: up to W K chunks.
template <int W, int K>
__global__ void __launch_bounds__(kThreads) warp_kernel(const __grid_constant__ Params p) {
  constexpr int kTogether = 32 / W;
  const int lane = threadIdx.x % 32, group = lane / W, first = lane % W;
  const auto heads = static_cast<int>(p.heads);
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; row < p.rows;
       row += static_cast<int64_t>(gridDim.x) * kWarps) {
    const Row r = row_of(p, row);
    const auto visible = static_cast<int>(r.visible);
    if (visible == 0) {
      if (lane == 0) p.out[row] = 0;
      continue;
    }
    float score[K], mass[K] = {}, counted = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int i = k * W + first;
      score[k] = i < visible ? r.score[chunk_of(p, visible, i)] : -INFINITY;
    }
#pragma unroll 4
    for (int begin = 0; begin < heads; begin += kTogether) {
      const int head = begin + group;
      const float* from = r.lse + head * p.lse_h;
      float x[K], most = -FLT_MAX;  // all -inf: nothing is counted
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const int i = k * W + first;
        x[k] = head < heads && i < visible ? from[i] : -INFINITY;
        most = fmaxf(most, x[k]);
      }
      most = max_lanes<W>(most);
      float sum = 0;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        x[k] = __expf(x[k] - most);
        sum += x[k];
      }
      sum = sum_lanes<W>(sum);
      const float share = sum == 0 ? 0 : 1 / sum;
      if (sum != 0) counted += 1;
#pragma unroll
      for (int k = 0; k < K; ++k) mass[k] += x[k] * share;
    }
#pragma unroll
    for (int offset = W; offset < 32; offset *= 2) {
#pragma unroll
      for (int k = 0; k < K; ++k) mass[k] += __shfl_xor_sync(kAll, mass[k], offset);
      counted += __shfl_xor_sync(kAll, counted, offset);
    }
    float most = score[0];
#pragma unroll
    for (int k = 1; k < K; ++k) most = fmaxf(most, score[k]);
    most = max_lanes<W>(most);
    float sum = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) sum += __expf(score[k] - most);
    const float log_sum = most + logf(sum_lanes<W>(sum)), of_head = 1 / static_cast<float>(heads);
    float loss = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      mass[k] *= of_head;
      if (k * W + first < visible) loss += term(mass[k], score[k] - log_sum);
    }
    loss = sum_lanes<W>(loss);
    if (lane == 0) p.out[row] = loss;
    if (p.slope == nullptr || group != 0) continue;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int i = k * W + first;
      if (i < visible) p.slope[row * p.chunks + chunk_of(p, visible, i)] = __expf(score[k] - log_sum) * (counted * of_head) - mass[k];
    }
  }
}

// A running log-sum-exp: `sum` of exp(x - most).
struct LogSum {
  float most = -FLT_MAX, sum = 0;
  __device__ void add(float x) {
    if (x > most) {
      sum *= __expf(most - x);
      most = x;
    }
    sum += __expf(x - most);
  }
  __device__ void join(float its_most, float its_sum) {
    const float top = fmaxf(most, its_most);
    sum = sum * __expf(most - top) + its_sum * __expf(its_most - top);
    most = top;
  }
  __device__ void join_warp() {
#pragma unroll
    for (int offset = 16; offset >= 1; offset /= 2) join(__shfl_xor_sync(kAll, most, offset), __shfl_xor_sync(kAll, sum, offset));
  }
};

// A row a thread block: sums head by head (a warp each), then p chunk by chunk (a thread each).
__global__ void __launch_bounds__(kThreads) block_kernel(const __grid_constant__ Params p) {
  extern __shared__ float2 head_sum[];  // [heads]: largest log mass, 1 / (heads * sum), 0 if it has none
  __shared__ float2 score_sum[kWarps];
  __shared__ float loss_of[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto heads = static_cast<int>(p.heads);
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const Row r = row_of(p, row);
    if (r.visible == 0) {
      if (threadIdx.x == 0) p.out[row] = 0;
      continue;
    }
    for (int head = warp; head < heads; head += kWarps) {
      const float* from = r.lse + head * p.lse_h;
      LogSum s;
#pragma unroll 4
      for (int64_t i = lane; i < r.visible; i += 32) s.add(from[i]);
      s.join_warp();
      if (lane == 0) head_sum[head] = make_float2(s.most, s.sum == 0 ? 0 : 1 / (s.sum * static_cast<float>(heads)));
    }
    LogSum s;
    for (int64_t i = threadIdx.x; i < r.visible; i += kThreads) s.add(r.score[i]);
    s.join_warp();
    if (lane == 0) score_sum[warp] = make_float2(s.most, s.sum);
    __syncthreads();
    LogSum all;
    for (int w = 0; w < kWarps; ++w) all.join(score_sum[w].x, score_sum[w].y);
    // Scores that are all -inf have no softmax: NaN, as elsewhere.
    const float log_sum = all.sum == 0 ? NAN : all.most + logf(all.sum);
    float counted = 0, loss = 0;
    for (int head = 0; head < heads; ++head) counted += head_sum[head].y == 0 ? 0 : 1;
    counted /= static_cast<float>(heads);
    for (int64_t i = threadIdx.x; i < r.visible; i += kThreads) {
      float mass = 0;
#pragma unroll 4
      for (int head = 0; head < heads; ++head) {
        const float2 h = head_sum[head];
        mass += __expf(r.lse[head * p.lse_h + i] - h.x) * h.y;
      }
      const int64_t chunk = chunk_of(p, r.visible, i);
      const float log_p = r.score[chunk] - log_sum;
      loss += term(mass, log_p);
      if (p.slope != nullptr) p.slope[row * p.chunks + chunk] = __expf(log_p) * counted - mass;
    }
    loss = sum_lanes<32>(loss);
    if (lane == 0) loss_of[warp] = loss;
    __syncthreads();
    if (threadIdx.x == 0) {
      float total = 0;
      for (int w = 0; w < kWarps; ++w) total += loss_of[w];
      p.out[row] = total;
    }
    __syncthreads();
  }
}

// WIDE: whole fours of chunks.
template <bool WIDE>
__global__ void __launch_bounds__(kThreads) backward_kernel(const __grid_constant__ Params p) {
  constexpr int kStep = WIDE ? 4 : 1;
  const int64_t numbers = p.rows * p.chunks, stride = static_cast<int64_t>(gridDim.x) * kThreads * kStep;
  for (int64_t at = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kStep; at < numbers; at += stride) {
    const int64_t row = at / p.chunks, chunk = at % p.chunks, b = row / p.length, t = row % p.length, visible = visible_of(p, t);
    float x[kStep] = {};
    if (chunk < visible) {
      const float g = p.grad[b * p.grad_b + t * p.grad_t];
      if constexpr (WIDE) {
        if (chunk + 4 <= visible) {
          const float4 four = *reinterpret_cast<const float4*>(p.known_slope + at);
          x[0] = g * four.x, x[1] = g * four.y, x[2] = g * four.z, x[3] = g * four.w;
        } else {
#pragma unroll
          for (int j = 0; j < 4; ++j) x[j] = chunk + j < visible ? g * p.known_slope[at + j] : 0;
        }
      } else {
        x[0] = g * p.known_slope[at];
      }
    }
    if constexpr (WIDE) {
      *reinterpret_cast<float4*>(p.grad_score + at) = make_float4(x[0], x[1], x[2], x[3]);
    } else {
      p.grad_score[at] = x[0];
    }
  }
}

template <int W, int K>
void launch_warps(const Params& p, cudaStream_t stream) {
  warp_kernel<W, K><<<blocks_for(p.rows, kWarps), kThreads, 0, stream>>>(p);
}

}  // namespace

cudaError_t launch_forward(const Params& p, cudaStream_t stream) {
  if (p.chunks <= 8) {
    launch_warps<8, 1>(p, stream);
  } else if (p.chunks <= 16) {
    launch_warps<16, 1>(p, stream);
  } else if (p.chunks <= 32) {
    launch_warps<32, 1>(p, stream);
  } else if (p.chunks <= 64) {
    launch_warps<32, 2>(p, stream);
  } else if (p.chunks <= 128) {
    launch_warps<32, 4>(p, stream);
  } else if (p.chunks <= 256) {
    launch_warps<32, 8>(p, stream);
  } else {
    const size_t pairs = static_cast<size_t>(p.heads + 1) / 2;  // the compiler reads two heads at a time, the last one's neighbour, too
    block_kernel<<<blocks_for(p.rows, 1), kThreads, 2 * pairs * sizeof(float2), stream>>>(p);
  }
  return cudaGetLastError();
}

cudaError_t launch_backward(const Params& p, cudaStream_t stream) {
  const int64_t numbers = p.rows * p.chunks;
  if (p.chunks % 4 == 0) {
    backward_kernel<true><<<blocks_for(numbers, 4 * kThreads), kThreads, 0, stream>>>(p);
  } else {
    backward_kernel<false><<<blocks_for(numbers, kThreads), kThreads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

}  // namespace cairn::distillation_cuda
