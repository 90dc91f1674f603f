// SwiGLU's middle on a GPU: four numbers a thread, fp32 arithmetic. Contract: launch.h.
#include <cuda_bf16.h>

#include "cairn/ops/cuda/vectors.cuh"
#include "cairn/ops/swiglu/launch.h"

namespace cairn {
namespace {

constexpr int kThreads = 256;

__device__ float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

template <typename T>
__global__ void __launch_bounds__(kThreads) swiglu_forward(JointSwiglu a) {
  const int64_t fours = a.width / 4, i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= a.rows * fours) return;
  const int64_t row = i / fours, column = 4 * (i % fours);
  const T* both = static_cast<const T*>(a.both) + row * 2 * a.width + column;
  const float4 g = load4(both), u = load4(both + a.width);
  const auto one = [](float gate, float up) { return gate * sigmoid(gate) * up; };
  store4(static_cast<T*>(a.y) + row * a.width + column, {one(g.x, u.x), one(g.y, u.y), one(g.z, u.z), one(g.w, u.w)});
}

template <typename T>
__global__ void __launch_bounds__(kThreads) swiglu_backward(JointSwiglu a) {
  const int64_t fours = a.width / 4, i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= a.rows * fours) return;
  const int64_t row = i / fours, column = 4 * (i % fours);
  const T* both = static_cast<const T*>(a.both) + row * 2 * a.width + column;
  const float4 g = load4(both), u = load4(both + a.width), d = load4(static_cast<const T*>(a.grad) + row * a.width + column);
  // d silu(x) / dx = s (1 + x (1 - s)) with s = sigmoid(x).
  const auto to_gate = [](float gate, float up, float grad) {
    const float s = sigmoid(gate);
    return grad * up * s * (1.0f + gate * (1.0f - s));
  };
  const auto to_up = [](float gate, float grad) { return grad * gate * sigmoid(gate); };
  T* out = static_cast<T*>(a.y) + row * 2 * a.width + column;
  store4(out, {to_gate(g.x, u.x, d.x), to_gate(g.y, u.y, d.y), to_gate(g.z, u.z, d.z), to_gate(g.w, u.w, d.w)});
  store4(out + a.width, {to_up(g.x, d.x), to_up(g.y, d.y), to_up(g.z, d.z), to_up(g.w, d.w)});
}

unsigned blocks_of(const JointSwiglu& a) { return static_cast<unsigned>((a.rows * (a.width / 4) + kThreads - 1) / kThreads); }

}  // namespace

cudaError_t launch_swiglu_forward(const JointSwiglu& a, cudaStream_t stream) {
  if (a.bf16) {
    swiglu_forward<__nv_bfloat16><<<blocks_of(a), kThreads, 0, stream>>>(a);
  } else {
    swiglu_forward<float><<<blocks_of(a), kThreads, 0, stream>>>(a);
  }
  return cudaGetLastError();
}

cudaError_t launch_swiglu_backward(const JointSwiglu& a, cudaStream_t stream) {
  if (a.bf16) {
    swiglu_backward<__nv_bfloat16><<<blocks_of(a), kThreads, 0, stream>>>(a);
  } else {
    swiglu_backward<float><<<blocks_of(a), kThreads, 0, stream>>>(a);
  }
  return cudaGetLastError();
}

}  // namespace cairn
