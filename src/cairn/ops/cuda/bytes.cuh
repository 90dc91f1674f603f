// int8 numbers as bf16, which holds them exactly.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace cairn::cuda {

// Four of them: low gets the first two, high the others. There is no fast instruction from 8 bits to bf16; but bf16 has 7 bits behind the
// leading one, so 128 + (the lower seven bits) is a matter of putting bits side by side, and what is too much, 128 or, with the sign bit
// set, 256, differs by one bit.
__device__ inline void widen_bytes(uint32_t x, uint32_t& low, uint32_t& high) {
  const auto widen = [](uint32_t spread) {
    const uint32_t number = spread & 0xff7fff7fu, much = spread & 0xff80ff80u;
    const __nv_bfloat162 made = __hsub2(reinterpret_cast<const __nv_bfloat162&>(number), reinterpret_cast<const __nv_bfloat162&>(much));
    return reinterpret_cast<const uint32_t&>(made);
  };
  constexpr uint32_t kExponent = 0x43434343;  // the upper byte of 128 and 256
  low = widen(__byte_perm(x, kExponent, 0x4140));
  high = widen(__byte_perm(x, kExponent, 0x4342));
}

}  // namespace cairn::cuda
