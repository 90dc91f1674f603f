// Memory attention forward in chunk order (docs/kernels-cuda.md): every run fetches the chunk's keys and values once; every tile of 64 rows
// makes its scores, a complete softmax and its share of o in registers, and stores that share for the sum over slots.
#pragma once

#include "cairn/ops/hsa/cuda/launch.h"
#include "cairn/ops/hsa/cuda/reduce.cuh"

namespace cairn::hsa_cuda {

#if CAIRN_HAS_WGMMA
// kShort: the chunk has at most 64 keys, so that its scores are complete at once.
template <int kD, bool kShort>
__device__ inline void forward_tile(const Params& p, Lane lane, const Stage<1>& stage, uint32_t q_at, uint32_t base) {
  constexpr int kPanels = (kD + 63) / 64, kBlockBytes = kPanels * kPanelBytes;
  constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;
  const int key_blocks = kShort ? 1 : p.key_blocks;
  const uint32_t chunk_bytes = static_cast<uint32_t>(key_blocks * kBlockBytes);
  const uint32_t keys_at = base + 2 * chunk_bytes * static_cast<uint32_t>(stage.chunk_slot), values_at = keys_at + chunk_bytes;
  lane.refresh();
  const int count = stage.count;
  const float scale = p.scale * kLog2e;
  uint32_t weight[2] = {};
  float o[kPanels * 32], top[2] = {p.off_by_one ? 0.0f : -INFINITY, p.off_by_one ? 0.0f : -INFINITY}, sum[2] = {};
  for (int kb = 0; kb < key_blocks; ++kb) {
    float s[32];
    wgmma_fence();
    product_of_rows<kD>(s, panel_descriptor(q_at), panel_descriptor(keys_at + static_cast<uint32_t>(kb * kBlockBytes)));
    wgmma_commit();
    if (kb == 0) {  // while the product runs
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (lane.pair(i) < count) weight[i] = load_weight(p, stage.pair[lane.pair(i)].weight + lane.weight_of_head(p, i));
      }
    }
    wgmma_wait<0>();
    const int keys_left = static_cast<int>(p.S) - kb * kKeyBlock;
    if (keys_left < kKeyBlock) mask_columns(s, keys_left);
    uint32_t probabilities[4][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float m = s[2 * i];
#pragma unroll
      for (int j = 0; j < 8; ++j) m = fmaxf(m, fmaxf(s[4 * j + 2 * i], s[4 * j + 2 * i + 1]));
      m = fmaxf(top[i], row_max(m) * scale);
      if (!kShort && kb != 0) {
        const float shrink = exp2_fast(top[i] - m);
        sum[i] *= shrink;
#pragma unroll
        for (int j = 0; j < kD / 8; ++j) o[4 * j + 2 * i] *= shrink, o[4 * j + 2 * i + 1] *= shrink;
      }
      top[i] = m;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float x = exp2_fast(fmaf(s[4 * j + 2 * i], scale, -m)), y = exp2_fast(fmaf(s[4 * j + 2 * i + 1], scale, -m));
        sum[i] += x + y;
        probabilities[j / 2][j % 2 * 2 + i] = pack_bf16(x, y);
      }
    }
    wgmma_fence();
    product_with_panel<kD>(o, probabilities, panel_descriptor(values_at + static_cast<uint32_t>(kb * kBlockBytes)), !kShort && kb != 0);
    wgmma_commit();
    if (kb + 1 == key_blocks) {
      sum[0] = row_sum(sum[0]), sum[1] = row_sum(sum[1]);
    }
    wgmma_wait<0>();
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (lane.pair(i) >= count) continue;
    const PairPlace& place = stage.pair[lane.pair(i)];
    const float total = sum[i] + (p.off_by_one ? exp2_fast(-top[i]) : 0.0f), f = __fdividef(weight_of(p, weight[i]), total);
    uint4* to = reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(p.partial) + (place.ring + lane.head(i)) * kD) + threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < kD / 32; ++j) {
      const float* x = o + 16 * j + 2 * i;
      to[4 * j] = make_uint4(pack_bf16(x[0] * f, x[1] * f), pack_bf16(x[4] * f, x[5] * f), pack_bf16(x[8] * f, x[9] * f),
                             pack_bf16(x[12] * f, x[13] * f));
    }
    if (p.lse != nullptr && threadIdx.x % 4 == 0) p.lse[place.lse + lane.head(i) * p.N] = (top[i] + __log2f(total)) * kLn2;
  }
}
#endif

template <int kD, bool kShort>
__global__ void __launch_bounds__(kBlockThreads, kD > 64  ? 2
                                                 : kShort ? 4
                                                          : 3)
    forward_kernel(const __grid_constant__ Params p, const __grid_constant__ Maps maps) {
#if CAIRN_HAS_WGMMA
  if (p.in_union_order != nullptr && *p.in_union_order != 0) return;
  constexpr int kStages = forward_stages(kD), kBlockBytes = (kD + 63) / 64 * kPanelBytes;
  extern __shared__ uint8_t raw[];
  __shared__ Shared<kStages, 1> shared;
  const uint32_t base = (shared_address(raw) + 1023) & ~1023u;
  prepare(p, shared, base, p.shared_bytes - 1024);
  if (threadIdx.x >= kThreads) {
    Producer<kD, kStages, 1>(p, maps, shared, base).run();
    return;
  }
  const uint32_t tiles = base + static_cast<uint32_t>(p.tiles_at);
  const Lane lane(p);
  for (Cursor<kStages, 1> cursor{shared};;) {
    const Stage<1>& stage = cursor.wait();
    if (stage.kind == Kind::kLast) break;
    const int block = stage.block;
    if (stage.kind == Kind::kReduce) {
      reduce_item<kD>(p, cursor, tiles, kBlockBytes);
      consumer_barrier();
      if (threadIdx.x == 0) add_release(p.reduce_done + block, 1);
      continue;
    }
    if (p.by_lanes) fence_shared_for_matrix();
    forward_tile<kD, kShort>(p, lane, stage, tiles + static_cast<uint32_t>(cursor.s * kBlockBytes), base);
    const bool item_ends = stage.item_ends;
    if (stage.run_ends) release(shared.chunk_empty[stage.chunk_slot]);
    cursor.advance();
    if (item_ends) {
      fence_global_for_copies();
      consumer_barrier();
      if (threadIdx.x == 0) add_release(p.main_done + block, 1);
    }
  }
#endif
}

template <int kD>
cudaError_t launch_forward(const Params& p, int processors, cudaStream_t stream) {
  int grid = 0;
  Maps maps;
  const auto kernel = p.key_blocks == 1 ? forward_kernel<kD, true> : forward_kernel<kD, false>;
  cudaError_t error = make_maps(p, &maps);
  if (error == cudaSuccess) error = persistent_grid(kernel, kBlockThreads, processors, p, &grid);
  if (error != cudaSuccess) return error;
  kernel<<<grid, kBlockThreads, static_cast<size_t>(p.shared_bytes), stream>>>(p, maps);
  return cudaGetLastError();
}

}  // namespace cairn::hsa_cuda
