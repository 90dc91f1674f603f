// Keys that compare like (score, chunk number), and sorting them. A key has 32 ordered bits of score above 32 bits of chunk number, so
// equal scores fall to the more recent chunk and no two keys of a row are equal. 0 is less than every key: an unused slot.
#pragma once

#include <cstdint>

#include "cairn/ops/select/launch.h"

namespace cairn::select_cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline float infinity() { return __int_as_float(0x7f800000); }

// Adding 0 makes -0 and +0 one score. NaN is never chosen: its key is that of an unused slot.
__device__ inline uint64_t make_key(float score, int64_t number) {
  if (score != score) return 0;
  const uint32_t bits = __float_as_uint(score + 0.0f);
  const uint32_t ordered = bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
  return static_cast<uint64_t>(ordered) << 32 | static_cast<uint32_t>(number);
}

__device__ inline float score_of(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(ordered ^ (ordered >> 31 ? 0x80000000u : 0xffffffffu));
}

// (number + 1, bits of the score): what the result is sorted by; an unused slot stays 0.
__device__ inline uint64_t by_number(uint64_t key) {
  return key == 0 ? 0 : ((key & 0xffffffffu) + 1) << 32 | __float_as_uint(score_of(key));
}

__device__ inline void write_result(const Params& p, int64_t row, int64_t slot, uint64_t numbered) {
  p.index[row * p.n + slot] = static_cast<int64_t>(numbered >> 32) - 1;
  p.score[row * p.n + slot] = __uint_as_float(static_cast<uint32_t>(numbered));  // 0 where unused
}

// Row r of group g: its text, token and retrieval head.
struct Row {
  int64_t b, t, q;
};
__device__ inline Row row_of(const Params& p, int64_t group, int64_t r) {
  if (p.shared) return {r / p.rows, r % p.rows, group};
  return {group / p.heads, r, group % p.heads};
}
__device__ inline int64_t flat_row(const Params& p, const Row& row) { return (row.b * p.rows + row.t) * p.heads + row.q; }

__device__ inline int64_t visible(const Params& p, int64_t t) {
  const int64_t bound = p.position + t > 0 ? p.position + t : 0;
  const int64_t count = bound / p.chunk - p.first_chunk;
  return count < 0 ? 0 : count > p.chunks ? p.chunks : count;
}

__device__ inline void order(uint64_t& first, uint64_t& second, bool descending) {
  if ((first < second) == descending) {
    const uint64_t x = first;
    first = second;
    second = x;
  }
}

// Bitonic sort of `size` (a power of two) keys in shared memory by the whole block, descending. Ends with a barrier.
__device__ inline void block_sort(uint64_t* keys, int size) {
  for (int k = 2; k <= size; k <<= 1) {
    for (int j = k >> 1; j > 0; j >>= 1) {
      __syncthreads();
      for (int i = threadIdx.x; i < size / 2; i += blockDim.x) {
        const int first = 2 * i - (i & (j - 1));  // i with a 0 put in at bit j
        order(keys[first], keys[first + j], (first & k) == 0);
      }
    }
  }
  __syncthreads();
}

// The same for 32 R keys of a warp, key r * 32 + lane in x[r].
template <int R>
__device__ inline void warp_sort(uint64_t (&x)[R]) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int k = 2; k <= 32 * R; k <<= 1) {
#pragma unroll
    for (int j = k >> 1; j > 0; j >>= 1) {
#pragma unroll
      for (int r = 0; r < R; ++r) {
        if (j >= 32) {
          const int other = r ^ (j / 32);
          if (other > r) order(x[r], x[other], ((r * 32) & k) == 0);
        } else {
          const uint64_t other = __shfl_xor_sync(kAllLanes, x[r], j);
          const bool largest = (((r * 32 + lane) & k) == 0) == ((lane & j) == 0);
          if ((other > x[r]) == largest) x[r] = other;
        }
      }
    }
  }
}

// The best keys of a row while they are gathered by a block: a buffer of CAPACITY keys in shared memory that is cut down to the n best when
// it has run full, and the key that newcomers must beat.
template <int CAPACITY>
struct TopBuffer {
  uint64_t keys[CAPACITY];
  uint64_t bar;  // the n-th best when last cut; 0 before
  int count;

  __device__ void clear() {  // by one thread
    bar = 0;
    count = 0;
  }
  // Returns true if it holds more than `limit` keys then. The caller sees to it that the buffer never overflows.
  __device__ bool push(uint64_t key, int limit) {
    const int slot = atomicAdd(&count, 1);
    keys[slot] = key;
    return slot + 1 > limit;
  }
  // By the whole block, between barriers: sorts and keeps the n best; slots up to n without a key are 0.
  __device__ void cut(int n) {
    const int have = count;
    int size = 2;
    while (size < have || size < n) size <<= 1;
    for (int i = have + threadIdx.x; i < size; i += blockDim.x) keys[i] = 0;
    block_sort(keys, size);
    if (threadIdx.x == 0) {
      bar = keys[n - 1];
      count = have < n ? have : n;
    }
    __syncthreads();
  }
  // The same by one warp, for at most 32 R keys and n <= 32 R; several buffers at once.
  template <int R>
  __device__ void cut_by_warp(int n) {
    const int lane = threadIdx.x & 31, have = count;
    uint64_t x[R];
#pragma unroll
    for (int i = 0; i < R; ++i) x[i] = i * 32 + lane < have ? keys[i * 32 + lane] : 0;
    __syncwarp();  // all lanes have read
    warp_sort<R>(x);
#pragma unroll
    for (int i = 0; i < R; ++i) {
      if (i * 32 + lane < n) keys[i * 32 + lane] = x[i];
      if (i * 32 + lane == n - 1) bar = x[i];
    }
    if (lane == 0) count = have < n ? have : n;
    __syncwarp();
  }
};

// Cuts those of `rows` buffers that hold more than `limit` keys (-1: all). By the whole block, between barriers.
template <int CAPACITY>
__device__ inline void cut_all(TopBuffer<CAPACITY>* buffers, int rows, int n, int limit) {
  constexpr int kByWarp = 128;
  for (int k = threadIdx.x / 32; k < rows; k += blockDim.x / 32) {
    const int have = buffers[k].count;
    __syncwarp();  // all lanes have read what the first one changes
    if (have <= limit || have > kByWarp) continue;
    if (have <= 32 && n <= 32) {
      buffers[k].template cut_by_warp<1>(n);
    } else {
      buffers[k].template cut_by_warp<kByWarp / 32>(n);
    }
  }
  __syncthreads();
  for (int k = 0; k < rows; ++k) {
    const int have = buffers[k].count;
    __syncthreads();
    if (have > limit && have > kByWarp) buffers[k].cut(n);
  }
}

// The n keys of a row by chunk number, into the result. By the whole block; `keys` has room for the next power of two.
__device__ inline void write_sorted(const Params& p, int64_t row, uint64_t* keys) {
  const int n = static_cast<int>(p.n);
  int size = 2;
  while (size < n) size <<= 1;
  for (int i = threadIdx.x; i < size; i += blockDim.x) keys[i] = i < n ? by_number(keys[i]) : 0;
  block_sort(keys, size);
  for (int i = threadIdx.x; i < n; i += blockDim.x) write_result(p, row, i, keys[i]);
}

// More than 48 KB of dynamic shared memory must be allowed. Kernels ask each time: there may be several devices.
template <typename Kernel>
cudaError_t allow_shared(Kernel kernel, int bytes) {
  constexpr int kAlways = 48 * 1024;
  return bytes <= kAlways ? cudaSuccess : cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

}  // namespace cairn::select_cuda
