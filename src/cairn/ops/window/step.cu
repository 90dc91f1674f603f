// A thread block a query head. A key lies over D / 8 lanes, 16 bytes each; every group of lanes has a softmax of its own over its keys, and
// all are joined at the end. Keys and values of earlier tokens are fetched before the kernel waits for the product in front of it.
#include <cuda_bf16.h>

#include "cairn/ops/cuda/dependent.cuh"
#include "cairn/ops/cuda/lanes.cuh"
#include "cairn/ops/cuda/vector.cuh"
#include "cairn/ops/window/launch.h"

namespace cairn::window_cuda {
namespace {

using cuda::kEight;
using cuda::load_eight;
using cuda::sum_lanes;

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kBatch = 5;  // keys that a lane holds at a time: 160 of 64 numbers a block
constexpr unsigned kAll = 0xffffffffu;
constexpr float kEps = 1e-6f, kLog2e = 1.44269504f;

__device__ inline void widen(const uint4& words, float (&x)[kEight]) {
  const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = __uint_as_float(word[i] << 16);
    x[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
  }
}

__device__ inline uint4 pack(const float (&x)[kEight]) {
  uint32_t word[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
    word[i] = reinterpret_cast<const uint32_t&>(pair);
  }
  return make_uint4(word[0], word[1], word[2], word[3]);
}

// One head over LANES lanes: normed, turned, and rounded to bf16 as every later step sees it.
template <int LANES>
__device__ inline uint4 norm_rotate(const __nv_bfloat16* from, const float* gain, const StepParams& p, int piece) {
  float x[kEight], g[kEight], sum = 0;
  load_eight(from + piece * kEight, x);
  load_eight(gain + piece * kEight, g);
#pragma unroll
  for (int i = 0; i < kEight; ++i) sum += x[i] * x[i];
  sum = sum_lanes<LANES>(sum);
  const float scale = rsqrtf(sum / (LANES * kEight) + kEps);
#pragma unroll
  for (int i = 0; i < kEight; ++i) x[i] *= scale * g[i];
  if (p.cosine != nullptr) {
    constexpr int kHalf = LANES / 2;
    float c[kEight], s[kEight];
    load_eight(p.cosine + piece % kHalf * kEight, c);
    load_eight(p.sine + piece % kHalf * kEight, s);
#pragma unroll
    for (int i = 0; i < kEight; ++i) {
      const float other = __shfl_xor_sync(kAll, x[i], kHalf);  // the number that stands D/2 away
      x[i] = piece < kHalf ? x[i] * c[i] - other * s[i] : x[i] * c[i] + other * s[i];
    }
  }
  return pack(x);
}

template <int D>
__global__ void __launch_bounds__(kThreads) step_kernel(const __grid_constant__ StepParams p) {
  constexpr int kLanes = D / kEight, kGroups = 32 / kLanes, kStep = kWarps * kGroups;
  __shared__ float part[kWarps][D], top_of[kWarps], sum_of[kWarps];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32, group = lane / kLanes, piece = lane % kLanes;
  const int h = static_cast<int>(blockIdx.x) % p.heads, R = p.heads / p.kv_heads, g = h / R;
  const int64_t b = static_cast<int>(blockIdx.x) / p.heads, slot_step = static_cast<int64_t>(p.kv_heads) * D;
  const int64_t ring = b * p.window * slot_step + g * D + piece * kEight;
  auto* const ring_k = static_cast<__nv_bfloat16*>(p.k) + ring;
  auto* const ring_v = static_cast<__nv_bfloat16*>(p.v) + ring;

  uint4 k[kBatch], v[kBatch];
  const auto fetch = [&](int base) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int slot = base + i * kStep + warp * kGroups + group;
      const bool inside = slot < p.window;
      k[i] = inside ? *reinterpret_cast<const uint4*>(ring_k + slot * slot_step) : make_uint4(0, 0, 0, 0);
      v[i] = inside ? *reinterpret_cast<const uint4*>(ring_v + slot * slot_step) : make_uint4(0, 0, 0, 0);
    }
  };
  cuda::let_next_start();
  fetch(0);
  const int current = static_cast<int>(*p.position % p.window);  // its own column holds what has left the window
  const float slope = p.slopes != nullptr ? p.slopes[h] * kLog2e : 0;
  cuda::wait_for_previous();

  const auto* joined = static_cast<const __nv_bfloat16*>(p.joined) + b * (p.heads + 2 * p.kv_heads) * D;
  float q[kEight];
  widen(norm_rotate<kLanes>(joined + h * D, p.q_gain, p, piece), q);
#pragma unroll
  for (int i = 0; i < kEight; ++i) q[i] *= p.scale * kLog2e;
  const auto score_of = [&](const uint4& key) {
    float x[kEight], s = 0;
    widen(key, x);
#pragma unroll
    for (int i = 0; i < kEight; ++i) s += q[i] * x[i];
    return sum_lanes<kLanes>(s);
  };

  float top = -INFINITY, sum = 0, o[kEight] = {};
  if (warp == 0) {  // the token itself
    const uint4 key = norm_rotate<kLanes>(joined + (p.heads + g) * D, p.k_gain, p, piece);
    const uint4 value = *reinterpret_cast<const uint4*>(joined + (p.heads + p.kv_heads + g) * D + piece * kEight);
    const float s = score_of(key);
    if (group == 0) {
      top = s, sum = 1;
      widen(value, o);
      if (h % R == 0) {
        *reinterpret_cast<uint4*>(ring_k + current * slot_step) = key;
        *reinterpret_cast<uint4*>(ring_v + current * slot_step) = value;
      }
    }
  }
  for (int base = 0; base < p.window; base += kBatch * kStep) {
    if (base > 0) fetch(base);
    float s[kBatch], highest = top;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int slot = base + i * kStep + warp * kGroups + group;
      s[i] = score_of(k[i]);
      if (slope != 0) s[i] -= slope * static_cast<float>(current - slot + (slot > current ? p.window : 0));
      if (slot >= p.window || slot == current) s[i] = -INFINITY;
      highest = fmaxf(highest, s[i]);
    }
    const float level = highest == -INFINITY ? 0 : highest;  // a group may have seen no key yet
    const float shrink = exp2f(top - level);
    top = highest;
    sum *= shrink;
#pragma unroll
    for (int j = 0; j < kEight; ++j) o[j] *= shrink;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const float w = exp2f(s[i] - level);
      float x[kEight];
      widen(v[i], x);
      sum += w;
#pragma unroll
      for (int j = 0; j < kEight; ++j) o[j] += w * x[j];
    }
  }

  // The groups of a warp, then the warps.
#pragma unroll
  for (int offset = kLanes; offset < 32; offset *= 2) {
    const float other_top = __shfl_xor_sync(kAll, top, offset), other_sum = __shfl_xor_sync(kAll, sum, offset);
    const float highest = fmaxf(top, other_top);
    const float mine = highest == -INFINITY ? 0 : exp2f(top - highest), its = highest == -INFINITY ? 0 : exp2f(other_top - highest);
    sum = sum * mine + other_sum * its;
#pragma unroll
    for (int j = 0; j < kEight; ++j) o[j] = o[j] * mine + __shfl_xor_sync(kAll, o[j], offset) * its;
    top = highest;
  }
  if (group == 0) {
#pragma unroll
    for (int j = 0; j < kEight; ++j) part[warp][piece * kEight + j] = o[j];
    if (piece == 0) top_of[warp] = top, sum_of[warp] = sum;
  }
  __syncthreads();
  if (thread >= D) return;
  float highest = top_of[0];  // of the warp that has the token itself: a number
#pragma unroll
  for (int w = 1; w < kWarps; ++w) highest = fmaxf(highest, top_of[w]);
  float total = 0, y = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    const float share = exp2f(top_of[w] - highest);
    total += share * sum_of[w];
    y += share * part[w][thread];
  }
  static_cast<__nv_bfloat16*>(p.o)[(b * p.heads + h) * D + thread] = __float2bfloat16(y / total);
}

template <int D>
cudaError_t launch_width(const StepParams& p, cudaStream_t stream) {
  return cuda::launch_dependent(step_kernel<D>, dim3(static_cast<unsigned>(p.batch * p.heads)), kThreads, 0, stream, p.ahead,
                                /*cluster=*/1, p);
}

}  // namespace

cudaError_t launch_step(const StepParams& p, cudaStream_t stream) {
  switch (p.head_dim) {
    case 32:
      return launch_width<32>(p, stream);
    case 64:
      return launch_width<64>(p, stream);
    default:
      return launch_width<128>(p, stream);
  }
}

}  // namespace cairn::window_cuda
