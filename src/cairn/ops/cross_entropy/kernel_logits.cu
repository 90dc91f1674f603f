// Cross-entropy of rows of logits on a GPU: one block a row, one reading of it. Contract: launch.h.
#include <cuda_bf16.h>

#include <cassert>
#include <cfloat>

#include "cairn/ops/cross_entropy/launch.h"
#include "cairn/ops/cuda/vectors.cuh"

namespace cairn {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// A largest number with its first place, and the sum of exp(x - most).
struct Running {
  float most = -FLT_MAX, sum = 0;
  int place = 0;

  __device__ void add(float x, int at) {
    if (x > most) {
      sum *= __expf(most - x);
      most = x;
      place = at;
    }
    sum += __expf(x - most);
  }
  __device__ void join(const Running& o) {
    const bool other = o.most > most || (o.most == most && o.place < place);
    const float top = fmaxf(most, o.most);
    sum = sum * __expf(most - top) + o.sum * __expf(o.most - top);
    most = top;
    if (other) place = o.place;
  }
};

__device__ Running over_warp(Running r) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    Running o;
    o.most = __shfl_xor_sync(0xffffffffu, r.most, distance);
    o.sum = __shfl_xor_sync(0xffffffffu, r.sum, distance);
    o.place = __shfl_xor_sync(0xffffffffu, r.place, distance);
    r.join(o);
  }
  return r;
}

__global__ void __launch_bounds__(kThreads) logit_statistics(LogitRows a) {
  const int64_t row = blockIdx.x;
  const float* x = a.logits + row * a.vocab;
  Running mine;
  mine.place = a.vocab;  // a thread without numbers never wins a tie
  for (int i = 4 * threadIdx.x; i < a.vocab; i += 4 * kThreads) {
    const float4 v = load4(x + i);
    mine.add(v.x, i), mine.add(v.y, i + 1), mine.add(v.z, i + 2), mine.add(v.w, i + 3);
  }
  mine = over_warp(mine);
  __shared__ Running warps[kWarps];
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w) mine.join(warps[w]);
  const int64_t target = a.target[row];
  assert(target >= 0 && target < a.vocab);
  const float lse = mine.most + logf(mine.sum);
  a.lse[row] = lse;
  a.loss[row] = lse - x[target];
  a.correct[row] = mine.place == target;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) logit_gradient(LogitRows a) {
  const int64_t row = blockIdx.x;
  const float* x = a.logits + row * a.vocab;
  T* out = static_cast<T*>(a.gradient) + row * a.vocab;
  const float lse = a.lse[row], g = a.scale[row];
  const int target = static_cast<int>(a.target[row]);
  for (int i = 4 * threadIdx.x; i < a.vocab; i += 4 * kThreads) {
    const float4 v = load4(x + i);
    const auto one = [&](float logit, int at) { return g * (__expf(logit - lse) - (at == target ? 1.0f : 0.0f)); };
    store4(out + i, {one(v.x, i), one(v.y, i + 1), one(v.z, i + 2), one(v.w, i + 3)});
  }
}

}  // namespace

cudaError_t launch_logit_statistics(const LogitRows& a, cudaStream_t stream) {
  logit_statistics<<<static_cast<unsigned>(a.rows), kThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

cudaError_t launch_logit_gradient(const LogitRows& a, cudaStream_t stream) {
  if (a.bf16) {
    logit_gradient<__nv_bfloat16><<<static_cast<unsigned>(a.rows), kThreads, 0, stream>>>(a);
  } else {
    logit_gradient<float><<<static_cast<unsigned>(a.rows), kThreads, 0, stream>>>(a);
  }
  return cudaGetLastError();
}

}  // namespace cairn
