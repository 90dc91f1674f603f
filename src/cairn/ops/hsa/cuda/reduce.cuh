// Sums of partial results over the slots of a row: the second half of the forward (o) and of the backward (dq, dweight).
#pragma once

#include "cairn/ops/hsa/cuda/produce.cuh"

namespace cairn::hsa_cuda {

#if CAIRN_HAS_WGMMA
__device__ inline uint4 load_shared_16(uint32_t at) {
  uint4 x;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];\n" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "r"(at));
  return x;
}

// Adds 8 bf16 numbers to sum.
__device__ inline void add_bf16(float* sum, const uint4& x) {
  const uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum[2 * i] += __uint_as_float(words[i] << 16);
    sum[2 * i + 1] += __uint_as_float(words[i] & 0xffff0000u);
  }
}

// Fragment order to column order: word j of thread c holds columns 8 j + 2 c, + 1 of 32; afterwards word i holds columns 8 c + 2 i, + 1.
__device__ inline uint4 in_column_order(const float* sum) {
  const uint32_t in[4] = {pack_bf16(sum[0], sum[1]), pack_bf16(sum[2], sum[3]), pack_bf16(sum[4], sum[5]), pack_bf16(sum[6], sum[7])};
  uint32_t out[4];
  const int c = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const int to = c ^ step;
    const uint32_t word = to == 0 ? in[0] : to == 1 ? in[1] : to == 2 ? in[2] : in[3], got = __shfl_xor_sync(0xffffffff, word, step);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (to == i) out[i] = got;
    }
  }
  return make_uint4(out[0], out[1], out[2], out[3]);
}

// Sums the partial results of a reduce item, stage by stage, into rows of o; starts at the cursor's stage and ends behind the item's last.
template <int kD, int kStages, int kTensors>
__device__ inline void reduce_item(const Params& p, Cursor<kStages, kTensors>& cursor, uint32_t tiles, uint32_t stage_bytes) {
  constexpr int kMost = (kSumHeads<kD> * kD / 8 + kThreads - 1) / kThreads;  // 16-byte pieces of a thread
  float sum[kMost][8] = {};
  const int thread = thread_here();
  for (bool item_ends = false; !item_ends;) {
    const StageHead& stage = cursor.wait();
    const int pieces = stage.sum_heads * (kD / 8), count = stage.count;
    const int64_t row = stage.sum_row;
    const bool ends = stage.sum_ends;
    item_ends = stage.item_ends;
    const uint32_t from = tiles + static_cast<uint32_t>(cursor.s) * stage_bytes + static_cast<uint32_t>(thread) * 16;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (thread + i * kThreads >= pieces) continue;
#pragma unroll 4
      for (int n = 0; n < count; ++n) add_bf16(sum[i], load_shared_16(from + static_cast<uint32_t>(i * kThreads + n * pieces) * 16));
    }
    cursor.advance();
    if (!ends) continue;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (i * kThreads >= pieces) continue;  // the same for all threads
      const uint4 x = in_column_order(sum[i]);
      const int piece = thread + i * kThreads;
      if (piece < pieces) {
        __nv_bfloat16* to = static_cast<__nv_bfloat16*>(p.o) + row * kD + piece / 4 * 32 + piece % 4 * 8;
        asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"l"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[i][j] = 0;
    }
  }
}

// dweight[row, hw, n] = sum over the heads that share the weight of <g, o_k>, for the rows of a reduce item.
__device__ inline void reduce_dots(const Params& p, int64_t block, uint32_t number) {
  const int64_t row0 = block * p.block_rows + static_cast<int64_t>(number) * kReduceRows, Hi = p.H / p.Gi;
  const int64_t end = min(min((block + 1) * p.block_rows, row0 + kReduceRows), p.B * p.L);
  const int64_t shared = p.H / p.Hw, each = p.Hw * p.N;
  const float* dots = p.partial_dot + block % p.ring * p.block_rows * p.Gi * p.N * Hi;
  for (int64_t at = threadIdx.x; at < (end - row0) * each; at += kThreads) {
    const int64_t row = row0 + at / each, hw = at % each / p.N, n = at % p.N;
    float sum = 0;
    for (int64_t h = hw * shared; h < (hw + 1) * shared; ++h) {
      const int64_t gi = h / Hi, chunk = p.index[(row * p.Gi + gi) * p.N + n];
      if (chunk < 0 || chunk >= p.C) continue;
      sum += __ldcg(dots + (((row - block * p.block_rows) * p.Gi + gi) * p.N + n) * Hi + h - gi * Hi);
    }
    store_weight(p, row * each + hw * p.N + n, sum);
  }
}
#endif

}  // namespace cairn::hsa_cuda
