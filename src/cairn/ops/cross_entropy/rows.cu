// A block takes a row of logits: read once for its statistics, once more for its gradient.
#include <cuda_bf16.h>

#include "cairn/ops/cross_entropy/launch.h"

namespace cairn::cross_entropy_cuda {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kAllLanes = 0xffffffffu;

// Largest logit so far, where it stands, and the sum of exp(logit - largest).
struct Running {
  float most, sum;
  int64_t at;
};

__device__ float infinity() { return __int_as_float(0x7f800000); }

// exp(x - most), where most may be -inf (then so is x).
__device__ float weight(float x, float most) { return most == -infinity() ? 0 : __expf(x - most); }

__device__ Running joined(const Running& a, const Running& b) {
  const float most = fmaxf(a.most, b.most);
  const bool first = a.most > b.most || (a.most == b.most && a.at < b.at);
  return {most, a.sum * weight(a.most, most) + b.sum * weight(b.most, most), first ? a.at : b.at};
}

__device__ void add(Running& r, float x, int64_t at) {
  if (x > r.most) {
    r.sum = r.sum * weight(r.most, x) + 1;
    r.most = x;
    r.at = at;
  } else {
    r.sum += x == -infinity() ? 0 : __expf(x - r.most);
  }
}

__device__ Running shuffled(const Running& r, int offset) {
  return {__shfl_xor_sync(kAllLanes, r.most, offset), __shfl_xor_sync(kAllLanes, r.sum, offset), __shfl_xor_sync(kAllLanes, r.at, offset)};
}

__global__ void __launch_bounds__(kThreads) statistics_kernel(const __grid_constant__ Params p) {
  __shared__ Running part[kThreads / 32];
  const float nan = __int_as_float(0x7fc00000);
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const float* x = p.logits + row * p.vocab;
    Running r = {-infinity(), 0, p.vocab};
    const int64_t vectors = p.vocab % 4 == 0 ? p.vocab / 4 : 0;
    for (int64_t i = threadIdx.x; i < vectors; i += kThreads) {
      const float4 v = reinterpret_cast<const float4*>(x)[i];
      add(r, v.x, 4 * i);
      add(r, v.y, 4 * i + 1);
      add(r, v.z, 4 * i + 2);
      add(r, v.w, 4 * i + 3);
    }
    for (int64_t i = 4 * vectors + threadIdx.x; i < p.vocab; i += kThreads) add(r, x[i], i);
#pragma unroll
    for (int offset = 16; offset >= 1; offset /= 2) r = joined(r, shuffled(r, offset));
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = r;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int i = 1; i < kThreads / 32; ++i) r = joined(r, part[i]);
      const int64_t target = p.target[row];
      const bool inside = target >= 0 && target < p.vocab;
      const float lse = r.most + logf(r.sum);
      p.lse[row] = lse;
      p.loss[row] = inside ? lse - x[target] : nan;
      p.correct[row] = r.at == target;
    }
    __syncthreads();
  }
}

template <typename T>
__device__ T as(float x) {
  return x;
}
template <>
__device__ __nv_bfloat16 as<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) gradient_kernel(const __grid_constant__ Params p) {
  const float nan = __int_as_float(0x7fc00000);
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const float* x = p.logits + row * p.vocab;
    T* to = static_cast<T*>(p.grad) + row * p.vocab;
    const int64_t target = p.target[row];
    const float lse = p.known_lse[row], scale = target >= 0 && target < p.vocab ? p.scale[row] : nan;
    const auto gradient = [&](float logit, int64_t i) { return as<T>(scale * (__expf(logit - lse) - (i == target ? 1.0f : 0.0f))); };
    const int64_t vectors = p.vocab % 4 == 0 ? p.vocab / 4 : 0;
    for (int64_t i = threadIdx.x; i < vectors; i += kThreads) {
      const float4 v = reinterpret_cast<const float4*>(x)[i];
      struct alignas(4 * sizeof(T)) Four {
        T a, b, c, d;
      };
      reinterpret_cast<Four*>(to)[i] = {gradient(v.x, 4 * i), gradient(v.y, 4 * i + 1), gradient(v.z, 4 * i + 2), gradient(v.w, 4 * i + 3)};
    }
    for (int64_t i = 4 * vectors + threadIdx.x; i < p.vocab; i += kThreads) to[i] = gradient(x[i], i);
  }
}

unsigned blocks_of(const Params& p) {
  constexpr int64_t kMost = 1 << 20;
  return static_cast<unsigned>(p.rows < kMost ? p.rows : kMost);
}

}  // namespace

cudaError_t launch_statistics(const Params& p, cudaStream_t stream) {
  statistics_kernel<<<blocks_of(p), kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

cudaError_t launch_gradient(const Params& p, cudaStream_t stream) {
  if (p.grad_bf16) {
    gradient_kernel<__nv_bfloat16><<<blocks_of(p), kThreads, 0, stream>>>(p);
  } else {
    gradient_kernel<float><<<blocks_of(p), kThreads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

}  // namespace cairn::cross_entropy_cuda
