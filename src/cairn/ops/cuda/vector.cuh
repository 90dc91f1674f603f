// Eight numbers at a time, bf16 or fp32 in memory, fp32 in registers.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace cairn::cuda {

constexpr int kEight = 8;

// Eight numbers as they were loaded.
__device__ inline void unpack_eight(const float4& a, const float4& b, float (&x)[kEight]) {
  x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}
__device__ inline void unpack_eight(const uint4& words, float (&x)[kEight]) {
  const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = __uint_as_float(word[i] << 16);
    x[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
  }
}

__device__ inline void load_eight(const float* from, float (&x)[kEight]) {
  unpack_eight(reinterpret_cast<const float4*>(from)[0], reinterpret_cast<const float4*>(from)[1], x);
}
__device__ inline void load_eight(const __nv_bfloat16* from, float (&x)[kEight]) { unpack_eight(*reinterpret_cast<const uint4*>(from), x); }

__device__ inline void store_eight(float* to, const float (&x)[kEight]) {
  reinterpret_cast<float4*>(to)[0] = make_float4(x[0], x[1], x[2], x[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(x[4], x[5], x[6], x[7]);
}
__device__ inline void store_eight(__nv_bfloat16* to, const float (&x)[kEight]) {
  uint32_t word[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
    word[i] = reinterpret_cast<const uint32_t&>(pair);
  }
  *reinterpret_cast<uint4*>(to) = make_uint4(word[0], word[1], word[2], word[3]);
}

}  // namespace cairn::cuda
