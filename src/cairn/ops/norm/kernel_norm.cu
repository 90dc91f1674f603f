// RMSNorm, alone or with the rotation of rotary positions, forward and backward: one pass over the data each. Contract: kernels.h.
//
// A part of `width` numbers belongs to kLanes neighbouring lanes; lane l holds numbers 4 (l + kLanes j) .. + 3, j < kSteps, in registers.
// With a table kSteps is 1, so the partner of number i, i + width / 2, is kLanes / 2 lanes away.
#include <cuda_bf16.h>

#include <algorithm>

#include "cairn/ops/cuda/vectors.cuh"
#include "cairn/ops/norm/launch.h"

namespace cairn {
namespace {

constexpr int kThreads = 256;
constexpr int kLargestWidth = 2048;

template <int kLanes>
__device__ float sum_over_lanes(float x) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}

template <typename T>
__device__ const T* part_of(const NormArgs& a, int64_t token, int64_t head) {
  return static_cast<const T*>(a.x) + (token / a.length) * a.batch_stride + (token % a.length) * a.token_stride + head * a.head_stride;
}

// The angles of 4 numbers from `i` on: the same for both halves.
__device__ void angles_of(const NormArgs& a, int64_t token, int i, float4* cosine, float4* sine) {
  const int half = static_cast<int>(a.width) / 2;
  const int64_t at = (token % a.length) * half + i % half;
  *cosine = *reinterpret_cast<const float4*>(a.cosine + at);
  *sine = *reinterpret_cast<const float4*>(a.sine + at);
}

// x turned by the angle (turn 1) or back (turn -1): first half a cos - b sin, second half b cos + a sin.
template <int kLanes>
__device__ float4 rotated(float4 x, float4 cosine, float4 sine, bool second, float turn) {
  const float sign = second ? turn : -turn;
  const auto one = [&](float own, float c, float s) { return own * c + sign * s * __shfl_xor_sync(0xffffffffu, own, kLanes / 2); };
  return {one(x.x, cosine.x, sine.x), one(x.y, cosine.y, sine.y), one(x.z, cosine.z, sine.z), one(x.w, cosine.w, sine.w)};
}

// Parts are taken by whole groups of lanes; lanes without a part go along, so that shuffles always see a full warp.
template <typename X, typename Y, int kLanes, int kSteps, bool kRotate>
__global__ void __launch_bounds__(kThreads) norm_forward(NormArgs a, int64_t parts) {
  const int lane = threadIdx.x % kLanes, width = static_cast<int>(a.width);
  constexpr int kGroups = kThreads / kLanes;
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kGroups + threadIdx.x / kLanes;
  for (int64_t first = group - threadIdx.x / kLanes; first < parts; first += static_cast<int64_t>(gridDim.x) * kGroups) {
    const int64_t part = first + threadIdx.x / kLanes;
    const bool live = part < parts;
    const int64_t token = live ? part / a.heads : 0;
    const X* x = part_of<X>(a, token, live ? part % a.heads : 0);
    float4 v[kSteps];
    float square = 0;
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      const int i = 4 * (lane + kLanes * j);
      v[j] = live && i < width ? load4(x + i) : float4{0, 0, 0, 0};
      square += v[j].x * v[j].x + v[j].y * v[j].y + v[j].z * v[j].z + v[j].w * v[j].w;
    }
    const float scale = rsqrtf(sum_over_lanes<kLanes>(square) / static_cast<float>(width) + a.eps);
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      const int i = 4 * (lane + kLanes * j);
      const float4 w = i < width ? load4(a.weight + i) : float4{0, 0, 0, 0};
      float4 y = {v[j].x * scale * w.x, v[j].y * scale * w.y, v[j].z * scale * w.z, v[j].w * scale * w.w};
      if constexpr (kRotate) {
        float4 cosine, sine;
        angles_of(a, token, i, &cosine, &sine);
        y = rotated<kLanes>(y, cosine, sine, lane >= kLanes / 2, 1.0f);
      }
      if (live && i < width) store4(static_cast<Y*>(a.y) + part * width + i, y);
    }
  }
}

// With u = x * scale and h the gradient of u * w (rotated back): dw += h u, dx = scale (h w - u mean(h w u)).
template <typename X, typename Y, int kLanes, int kSteps, bool kRotate>
__global__ void __launch_bounds__(kThreads) norm_backward(NormArgs a, int64_t parts) {
  const int lane = threadIdx.x % kLanes, width = static_cast<int>(a.width);
  constexpr int kGroups = kThreads / kLanes;
  float4 dw[kSteps], w[kSteps];
#pragma unroll
  for (int j = 0; j < kSteps; ++j) {
    const int i = 4 * (lane + kLanes * j);
    dw[j] = {0, 0, 0, 0};
    w[j] = i < width ? load4(a.weight + i) : float4{0, 0, 0, 0};
  }
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kGroups; first < parts; first += static_cast<int64_t>(gridDim.x) * kGroups) {
    const int64_t part = first + threadIdx.x / kLanes;
    const bool live = part < parts;
    const int64_t token = live ? part / a.heads : 0;
    const X* x = part_of<X>(a, token, live ? part % a.heads : 0);
    const Y* g = static_cast<const Y*>(a.grad) + (live ? part * width : 0);
    float4 v[kSteps], h[kSteps];
    float square = 0, dot = 0;
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      const int i = 4 * (lane + kLanes * j);
      const bool here = live && i < width;
      v[j] = here ? load4(x + i) : float4{0, 0, 0, 0};
      h[j] = here ? load4(g + i) : float4{0, 0, 0, 0};
      if constexpr (kRotate) {
        float4 cosine, sine;
        angles_of(a, token, i, &cosine, &sine);
        h[j] = rotated<kLanes>(h[j], cosine, sine, lane >= kLanes / 2, -1.0f);
      }
      square += v[j].x * v[j].x + v[j].y * v[j].y + v[j].z * v[j].z + v[j].w * v[j].w;
      dot += h[j].x * w[j].x * v[j].x + h[j].y * w[j].y * v[j].y + h[j].z * w[j].z * v[j].z + h[j].w * w[j].w * v[j].w;
    }
    const float scale = rsqrtf(sum_over_lanes<kLanes>(square) / static_cast<float>(width) + a.eps);
    const float back = sum_over_lanes<kLanes>(dot) * scale * scale / static_cast<float>(width);
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      const int i = 4 * (lane + kLanes * j);
      dw[j].x += h[j].x * v[j].x * scale, dw[j].y += h[j].y * v[j].y * scale;
      dw[j].z += h[j].z * v[j].z * scale, dw[j].w += h[j].w * v[j].w * scale;
      const float4 dx = {(h[j].x * w[j].x - v[j].x * back) * scale, (h[j].y * w[j].y - v[j].y * back) * scale,
                         (h[j].z * w[j].z - v[j].z * back) * scale, (h[j].w * w[j].w - v[j].w * back) * scale};
      if (live && i < width) store4(static_cast<X*>(a.y) + part * width + i, dx);
    }
  }
  // One row of weight gradients a block: groups in order, so that the sum is the same in every run.
  __shared__ float total[kLargestWidth];
  for (int i = threadIdx.x; i < width; i += kThreads) total[i] = 0;
  for (int turn = 0; turn < kGroups; ++turn) {
    __syncthreads();
    if (threadIdx.x / kLanes != turn) continue;
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      const int i = 4 * (lane + kLanes * j);
      if (i >= width) continue;
      total[i] += dw[j].x, total[i + 1] += dw[j].y, total[i + 2] += dw[j].z, total[i + 3] += dw[j].w;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < width; i += kThreads) a.grad_weight[static_cast<int64_t>(blockIdx.x) * width + i] = total[i];
}

// Lanes of a part: a fourth of its width up to a warp.
int lanes_of(const NormArgs& a) {
  int lanes = 2;
  while (lanes < 32 && 4 * lanes < a.width) lanes *= 2;
  return lanes;
}

int blocks_of(const NormArgs& a, int64_t parts, int multiprocessors, int each) {
  const int64_t groups = kThreads / lanes_of(a);
  return static_cast<int>(std::clamp<int64_t>((parts + groups - 1) / groups, 1, static_cast<int64_t>(multiprocessors) * each));
}

// Calls `launch` with the instantiation for the types, lanes and steps of `a`.
template <typename X, typename Y, typename Launch>
void with_lanes(const NormArgs& a, const Launch& launch) {
  const bool rotate = a.cosine != nullptr;
  switch (lanes_of(a)) {
    case 2:
      return rotate ? launch.template operator()<X, Y, 2, 1, true>() : launch.template operator()<X, Y, 2, 1, false>();
    case 4:
      return rotate ? launch.template operator()<X, Y, 4, 1, true>() : launch.template operator()<X, Y, 4, 1, false>();
    case 8:
      return rotate ? launch.template operator()<X, Y, 8, 1, true>() : launch.template operator()<X, Y, 8, 1, false>();
    case 16:
      return rotate ? launch.template operator()<X, Y, 16, 1, true>() : launch.template operator()<X, Y, 16, 1, false>();
    default:
      if (rotate) return launch.template operator()<X, Y, 32, 1, true>();
      if (a.width <= 128) return launch.template operator()<X, Y, 32, 1, false>();
      if (a.width <= 512) return launch.template operator()<X, Y, 32, 4, false>();
      if (a.width <= 1024) return launch.template operator()<X, Y, 32, 8, false>();
      return launch.template operator()<X, Y, 32, 16, false>();
  }
}
template <typename Launch>
void with_types(const NormArgs& a, const Launch& launch) {
  using bf16 = __nv_bfloat16;
  if (a.x_bf16) return a.y_bf16 ? with_lanes<bf16, bf16>(a, launch) : with_lanes<bf16, float>(a, launch);
  return a.y_bf16 ? with_lanes<float, bf16>(a, launch) : with_lanes<float, float>(a, launch);
}

struct LaunchForward {
  NormArgs a;
  int64_t parts;
  int blocks;
  cudaStream_t stream;
  template <typename X, typename Y, int kLanes, int kSteps, bool kRotate>
  void operator()() const {
    norm_forward<X, Y, kLanes, kSteps, kRotate><<<blocks, kThreads, 0, stream>>>(a, parts);
  }
};
struct LaunchBackward {
  NormArgs a;
  int64_t parts;
  int blocks;
  cudaStream_t stream;
  template <typename X, typename Y, int kLanes, int kSteps, bool kRotate>
  void operator()() const {
    norm_backward<X, Y, kLanes, kSteps, kRotate><<<blocks, kThreads, 0, stream>>>(a, parts);
  }
};

constexpr int kForwardBlocks = 8, kBackwardBlocks = 4;  // a multiprocessor

}  // namespace

bool norm_launchable(const NormArgs& a) {
  const auto fours = [](int64_t n) { return n % 4 == 0; };
  const bool aligned = reinterpret_cast<uintptr_t>(a.x) % (a.x_bf16 ? 8 : 16) == 0;
  const bool layout = fours(a.width) && fours(a.batch_stride) && fours(a.token_stride) && fours(a.head_stride) && aligned;
  const bool power = (a.width & (a.width - 1)) == 0;
  return layout && a.weight_stride == 0 && a.width <= kLargestWidth && a.width >= 4 &&
         (a.cosine == nullptr || (power && a.width >= 8 && a.width <= 128));
}

cudaError_t launch_norm_forward(const NormArgs& a, int64_t tokens, int multiprocessors, cudaStream_t stream) {
  const int64_t parts = tokens * a.heads;
  with_types(a, LaunchForward{a, parts, blocks_of(a, parts, multiprocessors, kForwardBlocks), stream});
  return cudaGetLastError();
}

int norm_backward_blocks(const NormArgs& a, int64_t tokens, int multiprocessors) {
  return blocks_of(a, tokens * a.heads, multiprocessors, kBackwardBlocks);
}

cudaError_t launch_norm_backward(const NormArgs& a, int64_t tokens, int blocks, cudaStream_t stream) {
  with_types(a, LaunchBackward{a, tokens * a.heads, blocks, stream});
  return cudaGetLastError();
}

}  // namespace cairn
