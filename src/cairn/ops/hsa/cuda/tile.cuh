// What the forward and the backward in chunk order share: the order of work, and the warp that fetches (the "producer"; the other four
// warps, the "consumers", compute).
#pragma once

#include <cuda_bf16.h>

#include "cairn/ops/hsa/cuda/async.cuh"
#include "cairn/ops/hsa/cuda/maps.cuh"
#include "cairn/ops/hsa/cuda/params.h"

namespace cairn::hsa_cuda {

// A row of D partial results is stored so that a thread writes 16 bytes of its matrix fragment at once and four neighbours write 64: column
// 32 i + 8 j + 2 c + e lies at 32 i + 8 c + 2 j + e. fp32 sums (dk, dv) likewise: column 16 i + 8 j + 2 c + e lies at 16 i + 4 c + 2 j + e.
__host__ __device__ inline int64_t fragment_column(int64_t column) {
  return column / 16 * 16 + column % 8 / 2 * 4 + column / 8 % 2 * 2 + column % 2;
}

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ inline unsigned int load_acquire(const unsigned int* p) {
  unsigned int x;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n" : "=r"(x) : "l"(p) : "memory");
  return x;
}
__device__ inline void add_release(unsigned int* p, unsigned int x) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;\n" ::"l"(p), "r"(x) : "memory");
}
__device__ inline void wait_for(const unsigned int* counter, unsigned int count) {
  while (load_acquire(counter) < count) __nanosleep(40);
}

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
// Of a number well inside the range of normal ones.
__device__ inline float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
// Over the four threads that hold a row of a fragment.
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffff, x, 1);
  return x + __shfl_xor_sync(0xffffffff, x, 2);
}
// Sets the columns of a block of scores beyond the chunk's end to -inf.
__device__ inline void mask_columns(float* s, int keys_left) {
  const int c = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (8 * j + c + e >= keys_left) s[4 * j + e] = s[4 * j + 2 + e] = -INFINITY;
    }
  }
}

// A weight on its way: looked at only after weight_of(), so that the load runs beside the products.
__device__ inline uint32_t load_weight(const Params& p, int64_t at) {
  uint32_t bits;
  if (p.weight_bf16) {
    uint16_t low;
    asm volatile("ld.global.nc.u16 %0, [%1];\n" : "=h"(low) : "l"(static_cast<const uint16_t*>(p.weight) + at));
    bits = low;
  } else {
    asm volatile("ld.global.nc.u32 %0, [%1];\n" : "=r"(bits) : "l"(static_cast<const uint32_t*>(p.weight) + at));
  }
  return bits;
}
__device__ inline float weight_of(const Params& p, uint32_t bits) {
  asm volatile("" : "+r"(bits));
  return __uint_as_float(p.weight_bf16 ? bits << 16 : bits);
}
__device__ inline void store_weight(const Params& p, int64_t at, float x) {
  if (p.weight_bf16) {
    static_cast<__nv_bfloat16*>(p.dweight)[at] = __float2bfloat16(x);
  } else {
    static_cast<float*>(p.dweight)[at] = x;
  }
}

// One piece of work; see Params for the order.
struct Ticket {
  int block;        // below 0: nothing to do
  uint32_t number;  // of the main or reduce item inside the block
  bool main, last;  // last: nothing left
};
__device__ inline Ticket ticket_of(const Params& p, uint32_t all) {
  const uint32_t each = p.main_items + p.reduce_items, steps = static_cast<uint32_t>(p.blocks) * each;
  Ticket t{0, 0, false, false};
  if (all >= steps) {
    const uint32_t tail = all - steps;
    t.block = static_cast<int>(p.blocks) - p.delay + static_cast<int>(tail / p.reduce_items);
    t.number = tail % p.reduce_items;
    t.last = tail >= static_cast<uint32_t>(p.delay) * p.reduce_items;
    return t;
  }
  const uint32_t step = all / each, place = all - step * each, round = place / p.reduce_every;
  const uint32_t reduces = min(round, p.reduce_items);
  t.main = reduces == p.reduce_items || place - round * p.reduce_every != p.reduce_every - 1;
  t.block = static_cast<int>(step) - (t.main ? 0 : p.delay);
  t.number = t.main ? place - reduces : reduces;
  return t;
}

enum class Kind : int { kTile, kReduce, kLast };

// Where a pair of a tile of the forward reads and writes, for the first head of the tile.
struct __align__(16) PairPlace {
  int64_t weight;  // element of weight
  int64_t ring;    // row of D partial results
  int64_t lse;     // element of lse
};

// What the producer tells the consumers about a stage.
struct StageHead {
  Kind kind;
  int count;                  // pairs of the tile; partial results to sum
  int b, g;                   // sequence, K/V head
  int chunk_slot;             // which of the fetched chunks
  int own;                    // 64 keys of the chunk that the item does (backward)
  bool run_ends, item_ends;   // with this tile
  uint32_t key;               // (b Gi + gi) C + chunk
  uint32_t slice, run_pairs;  // the item's slice of the block; pairs of the run
  int block;
  int64_t sum_row;  // reduce: row of o, in rows of D
  int sum_heads;    // reduce: rows of D
  bool sum_ends;    // reduce: these were the last partial results of the row
  uint32_t number;  // reduce: of the item
};

template <int kTensors>
struct Stage : StageHead {
  PairPlace pair[kTileRows];
};

// Of the backward: rows, not pairs, since its helpers have the time for it.
template <>
struct Stage<2> : StageHead {
  uint32_t pair[kTileRows], token[kTileRows];  // of the pairs
  uint32_t first_pair;                         // of the block
  int64_t ring_row;                            // of the block's first pair, own keys and first head included
  // Of the rows: weight and gradient of lse, 0 behind the last row; row of D partial results; element of partial_dot, else of dweight.
  float2 weight_and_grad_lse[kTileRows];
  int64_t ring[kTileRows], dot[kTileRows];
};

// Heads whose partial results are summed at a time: one 16-byte piece a thread, two of widths beyond 64.
template <int kD>
constexpr int kSumHeads = kD > 64 ? 16 : 1024 / kD;

template <int kStages, int kTensors>
struct Shared {
  static constexpr int kWindow = kTensors * kWindowPairs;  // the backward has the space
  uint64_t full[kStages], empty[kStages], ready[kStages], chunk_empty[2];
  Stage<kTensors> stage[kStages];
  // The producer's own: a window of an item's pairs, or which slots a reduce item sums.
  union {
    struct {
      int block, own;
      uint32_t first_pair, ring_pair, slice;                 // the block's first pair; rows of partial results of a pair
      int64_t ring_row;                                      // of the block's first pair
      uint32_t starts[kWindow / 32 + 1];                     // one bit a pair of the window: it begins a run
      uint32_t pair[kWindow], token[kWindow], key[kWindow];  // key: (b Gi + gi) C + chunk
    } item;
    uint32_t used[kMostReduceSlots / 32];
  };
};

// First place after e that begins another run, or count. starts: one bit a pair.
__device__ inline int run_end(const uint32_t* starts, int e, int count) {
  int word = (e + 1) / 32;
  uint32_t bits = starts[word] & (0xffffffffu << (e + 1) % 32);
  while (bits == 0 && ++word * 32 < count) bits = starts[word];
  return bits != 0 ? min(count, word * 32 + __ffs(static_cast<int>(bits)) - 1) : count;
}

// First place of the run that e belongs to.
__device__ inline int run_begin(const uint32_t* starts, int e) {
  int word = e / 32;
  uint32_t bits = starts[word] & (0xffffffffu >> (31 - e % 32));
  while (bits == 0) bits = starts[--word];  // the first pair of an item begins a run
  return word * 32 + 31 - __clz(static_cast<int>(bits));
}

// threadIdx.x, computed with anew wherever this is called.
__device__ inline int thread_here() {
  int thread = static_cast<int>(threadIdx.x);
  asm volatile("" : "+r"(thread));
  return thread;
}

// What a consumer thread of the forward knows of its two rows of every tile (they are 8 apart): pair of the tile and head of the group, in
// one register. Whatever is spilled to local memory has to come from the L2 cache, since shared memory leaves the L1 cache next to nothing.
class Lane {
 public:
  __device__ explicit Lane(const Params& p) {
    const int R = p.R, row = static_cast<int>(threadIdx.x) / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
    packed_ = static_cast<uint32_t>(row / R | (row + 8) / R << 8 | row % R << 16 | (row + 8) % R << 24);
  }
  // To be called for every tile: keeps the compiler from unpacking once and for all, which costs registers that then are spilled.
  __device__ void refresh() { asm volatile("" : "+r"(packed_)); }
  __device__ int pair(int i) const { return static_cast<int>(packed_ >> (8 * i) & 255); }
  __device__ int head(int i) const { return static_cast<int>(packed_ >> (8 * i + 16) & 255); }
  // Of weight, as offset from the pair's first head.
  __device__ int64_t weight_of_head(const Params& p, int i) const { return p.Hw == p.H ? head(i) * p.N : 0; }

 private:
  uint32_t packed_;
};

}  // namespace cairn::hsa_cuda
