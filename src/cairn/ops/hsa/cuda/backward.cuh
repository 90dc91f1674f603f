// Memory attention backward in chunk order, one visit of each (chunk, tile): scores and probabilities are made again, then
//   dV += (w P)^T g,  dS = P (w dP + grad_lse - dot_share w <g,o_k>),  dP = g V^T,  <g,o_k> = rowsum(P dP),  dK += dS^T Q,  dQ_k = dS K
// (docs/algorithm.md section 2). dK and dV of 64 keys stay in registers for a whole run; dQ_k and <g,o_k> go to the ring. Where a chunk has
// more than 64 keys, an item does 64 of them, after looking at the others for the softmax.
#pragma once

#include "cairn/ops/hsa/cuda/launch.h"
#include "cairn/ops/hsa/cuda/reduce.cuh"

namespace cairn::hsa_cuda {

constexpr int kBackwardThreads = 2 * kThreads;  // whole warp groups, so that registers can change hands

template <bool kAdd>
__device__ inline void put_4(float* to, float a, float b, float c, float d) {
#if CAIRN_HAS_WGMMA
  if (!kAdd) {
    *reinterpret_cast<float4*>(to) = make_float4(a, b, c, d);
    return;
  }
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};\n" ::"l"(to), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
#endif
}

// Adds 64 x kD sums to the rows of dk or dv, or writes them there; rows from `keys` on are beyond the chunk.
template <int kD, bool kAdd>
__device__ inline void flush_sums(float* to, float* sum, int keys) {
  const int thread = thread_here(), row = thread / 32 * 16 + thread % 32 / 4, c = thread % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float* at = to + (row + 8 * i) * kD + 4 * c;
#pragma unroll
    for (int j = 0; j < kD / 16; ++j) {
      float* x = sum + 8 * j + 2 * i;
      if (row + 8 * i < keys) put_4<kAdd>(at + 16 * j, x[0], x[1], x[4], x[5]);
      x[0] = x[1] = x[4] = x[5] = 0;
    }
  }
}

// Softmax state of a thread's two rows: maximum (log 2), and this thread's part of sum exp and of sum exp * dP.
struct RowState {
  float top[2], sum[2], dot[2];
};

// Replaces scores by exp(score - maximum) and brings maximum and sum up to date.
template <bool kShort>
__device__ inline void exponentials(RowState& r, float* s, float scale) {
  // Two accumulators a row, here and below: a chain half as long.
  float m[2], more[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    m[i] = fmaxf(s[2 * i], s[2 * i + 1]), more[i] = fmaxf(s[4 + 2 * i], s[4 + 2 * i + 1]);
#pragma unroll
    for (int j = 2; j < 8; j += 2) {
      m[i] = fmaxf(m[i], fmaxf(s[4 * j + 2 * i], s[4 * j + 2 * i + 1]));
      more[i] = fmaxf(more[i], fmaxf(s[4 * j + 4 + 2 * i], s[4 * j + 4 + 2 * i + 1]));
    }
    m[i] = fmaxf(m[i], more[i]);
  }
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
#pragma unroll
    for (int i = 0; i < 2; ++i) m[i] = fmaxf(m[i], __shfl_xor_sync(0xffffffff, m[i], step));
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    m[i] = fmaxf(r.top[i], m[i] * scale);
    if (!kShort) {
      const float shrink = exp2_fast(r.top[i] - m[i]);
      r.sum[i] *= shrink, r.dot[i] *= shrink;
    }
    r.top[i] = m[i];
  }
  float sum[2] = {};
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = 4 * j + 2 * i;
      s[at] = exp2_fast(fmaf(s[at], scale, -m[i])), s[at + 1] = exp2_fast(fmaf(s[at + 1], scale, -m[i]));
      r.sum[i] += s[at], sum[i] += s[at + 1];
    }
  }
  r.sum[0] += sum[0], r.sum[1] += sum[1];
}
__device__ inline void add_dots(RowState& r, const float* s, const float* dp) {
  float dot[2] = {};
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = 4 * j + 2 * i;
      r.dot[i] = fmaf(s[at], dp[at], r.dot[i]), dot[i] = fmaf(s[at + 1], dp[at + 1], dot[i]);
    }
  }
  r.dot[0] += dot[0], r.dot[1] += dot[1];
}

#if CAIRN_HAS_WGMMA
// Stores four 8 x 8 pieces of a fragment; every thread gives the address of one row of 16 bytes.
__device__ inline void store_matrix(uint32_t to, const uint32_t* x) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(to), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
               : "memory");
}

// <g, o_k> of the thread's rows `row` and `row` + 8: straight to dweight, summed over the heads of a pair where these lie in one warp, else
// to the ring.
__device__ inline void store_dots(const Params& p, const Stage<2>& stage, int row, int rows, float* dots) {
  const int R = p.R;
  const bool shared_weight = p.partial_dot == nullptr && p.Hw != p.H;
  if (shared_weight && R == 16) {
    dots[0] += dots[1];
#pragma unroll
    for (int step = 1; step < 8; step *= 2) dots[0] += __shfl_xor_sync(0xffffffff, dots[0], 4 * step);
  } else if (shared_weight) {
#pragma unroll
    for (int step = 1; step < 8; step *= 2) {
      if (step >= R) continue;
      dots[0] += __shfl_xor_sync(0xffffffff, dots[0], 4 * step), dots[1] += __shfl_xor_sync(0xffffffff, dots[1], 4 * step);
    }
  }
  if (threadIdx.x % 4 != 0) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int at = row + 8 * i;
    if (at >= rows || (shared_weight && (at & (R - 1)) != 0)) continue;  // R is a power of two there
    if (p.partial_dot != nullptr) {
      p.partial_dot[stage.dot[at]] = dots[i];
    } else {
      store_weight(p, stage.dot[at], dots[i]);
    }
  }
}

// One tile; dk and dv [64 x kD] are added to. kShort: the chunk has at most 64 keys.
template <int kD, bool kShort>
__device__ inline void backward_tile(const Params& p, const Stage<2>& stage, uint32_t base, uint32_t q_at, float* dk, float* dv) {
  constexpr int kPanels = (kD + 63) / 64, kBlockBytes = kPanels * kPanelBytes;
  constexpr float kLog2e = 1.44269504f;
  const int thread = thread_here(), c = thread % 4, key_blocks = kShort ? 1 : p.key_blocks, row = thread / 32 * 16 + thread % 32 / 4;
  const int own = kShort ? 0 : stage.own;
  const uint32_t g_at = q_at + kBlockBytes, chunk_bytes = static_cast<uint32_t>(key_blocks * kBlockBytes);
  const uint32_t keys_at = base + 2 * chunk_bytes * static_cast<uint32_t>(stage.chunk_slot), values_at = keys_at + chunk_bytes;
  const uint32_t wp_at = base + static_cast<uint32_t>(p.tiles_at) + 2 * backward_stages(kD) * kBlockBytes, ds_at = wp_at + kPanelBytes;

  RowState r;
#pragma unroll
  for (int i = 0; i < 2; ++i) r.top[i] = p.off_by_one ? 0.0f : -INFINITY, r.sum[i] = r.dot[i] = 0;
  float s[32], dp[32];
  for (int other = 1; other <= key_blocks; ++other) {  // the own keys last: their numbers stay
    const int kb = own + other < key_blocks ? own + other : own + other - key_blocks;
    const uint32_t skip = static_cast<uint32_t>(kb * kBlockBytes);
    wgmma_fence();
    product_of_rows<kD>(s, panel_descriptor(q_at), panel_descriptor(keys_at + skip));
    wgmma_commit();
    product_of_rows<kD>(dp, panel_descriptor(g_at), panel_descriptor(values_at + skip));
    wgmma_commit();
    wgmma_wait<(kD <= 64 ? 1 : 0)>();  // wider ones lack the registers
    const int keys_left = static_cast<int>(p.S) - kb * kKeyBlock;
    if (keys_left < kKeyBlock) mask_columns(s, keys_left);
    exponentials<kShort>(r, s, p.scale * kLog2e);
    wgmma_wait<0>();
    add_dots(r, s, dp);
  }

  // w P and dS / sqrt(D) as bf16: dS stays in registers for dQ, both go to shared memory for dV and dK. Piece j of row r lies at piece
  // j ^ (r mod 8).
  float dots[2], constant[2], ds_factor[2], wp_factor[2];
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      r.sum[i] += __shfl_xor_sync(0xffffffff, r.sum[i], step), r.dot[i] += __shfl_xor_sync(0xffffffff, r.dot[i], step);
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float2 given = stage.weight_and_grad_lse[row + 8 * i];
    const float inverse = __fdividef(1.0f, r.sum[i] + (p.off_by_one ? exp2_fast(-r.top[i]) : 0.0f));
    dots[i] = r.dot[i] * inverse;
    wp_factor[i] = inverse * given.x, ds_factor[i] = wp_factor[i] * p.scale;
    constant[i] = (given.y - given.x * p.dot_share * dots[i]) * (inverse * p.scale);
  }
  uint32_t store_at = wp_at + static_cast<uint32_t>((thread / 32 * 16 + thread % 16) * 128 + ((thread / 16 % 2 ^ thread % 8) << 4));
  uint32_t ds_registers[4][4];
#pragma unroll
  for (int jj = 0; jj < 4; ++jj) {
    uint32_t wp[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {  // columns 16 jj + 8 (k / 2), rows + 8 (k % 2)
      const int i = k % 2, at = 4 * (2 * jj + k / 2) + 2 * i;
      ds_registers[jj][k] =
          pack_bf16(s[at] * fmaf(ds_factor[i], dp[at], constant[i]), s[at + 1] * fmaf(ds_factor[i], dp[at + 1], constant[i]));
      wp[k] = pack_bf16(s[at] * wp_factor[i], s[at + 1] * wp_factor[i]);
    }
    store_matrix(store_at ^ static_cast<uint32_t>(jj << 5), wp);
    store_matrix((store_at ^ static_cast<uint32_t>(jj << 5)) + kPanelBytes, ds_registers[jj]);
  }

  // dQ 64 columns at a time, the last of them while dK and dV are on their way.
  const int rows = stage.count * p.R;
  float dq[32];
  const auto store_dq = [&](int panel) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (row + 8 * i >= rows) continue;
      uint4* to = reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(p.partial) + stage.ring[row + 8 * i] * kD + panel * 64) + c;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float* x = dq + 16 * j + 2 * i;
        if (panel * 64 + j * 32 >= kD) break;
        to[4 * j] = make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[4], x[5]), pack_bf16(x[8], x[9]), pack_bf16(x[12], x[13]));
      }
    }
  };
  constexpr int kLast = kPanels - 1, kLastWidth = kD - 64 * kLast;
  const uint32_t own_keys = keys_at + static_cast<uint32_t>(own * kBlockBytes);
  if constexpr (kPanels == 2) {
    wgmma_fence();
    product_with_panel<64>(dq, ds_registers, panel_descriptor(own_keys), false);
    wgmma_commit();
    wgmma_wait<0>();
    store_dq(0);
  }
  wgmma_fence();
  product_with_panel<kLastWidth>(dq, ds_registers, panel_descriptor(own_keys + kLast * kPanelBytes), false);
  wgmma_commit();
  fence_shared_for_matrix();
  consumer_barrier();  // w P and dS are written
  wgmma_fence();
  product_over_rows<kD>(dv, panel_descriptor(wp_at), panel_descriptor(g_at));
  product_over_rows<kD>(dk, panel_descriptor(ds_at), panel_descriptor(q_at));
  wgmma_commit();
  if (own == 0) store_dots(p, stage, row, rows, dots);
  wgmma_wait<1>();
  store_dq(kLast);
  wgmma_wait<0>();
}

// Pairs that were added to this copy of the chunk's sums before the run of `stage`.
__device__ inline unsigned int pairs_before(const Params& p, const Stage<2>& stage) {
  const int64_t keys = p.B * p.Gi * p.C, at = stage.block * keys + stage.key;
  const unsigned int T = static_cast<unsigned int>(p.item_pairs),
                     block_first = static_cast<unsigned int>(stage.block * p.block_rows * p.Gi * p.N);
  const unsigned int start = p.starts[stage.block * (keys + 1) + stage.key] - block_first, first_slice = start / T;
  unsigned int count = p.before[at * kCopies + stage.slice % kCopies];
  for (unsigned int slice = stage.slice; slice >= first_slice + kCopies;) {
    slice -= kCopies;
    count += slice == first_slice ? (slice + 1) * T - start : T;
  }
  return count;
}

// The end of a run: adds its dk and dv to those of the chunk, in turn where Params asks for it, or keeps them for launch_finish_keys.
template <int kD>
__device__ inline void flush_run(const Params& p, const Stage<2>& stage, float* dk, float* dv) {
  const int keys_left = static_cast<int>(p.S) - stage.own * kKeyBlock;
  if (p.runs != nullptr) {
    const int64_t part = (p.Gi == 1 ? stage.g * p.own_blocks : 0) + stage.own;
    const int64_t run = stage.block * (p.main_items / p.fan + p.B * p.Gi * p.C) + stage.slice + stage.key;
    float* to = p.runs + (run * p.fan + part) * (2 * kKeyBlock * kD);
    flush_sums<kD, false>(to, dk, keys_left);
    flush_sums<kD, false>(to + kKeyBlock * kD, dv, keys_left);
    return;
  }
  const uint32_t chunk = stage.key % static_cast<uint32_t>(p.C), b = stage.key / static_cast<uint32_t>(p.Gi * p.C);
  const int64_t group_chunk = (b * p.G + stage.g) * p.C + chunk;
  const int copy = p.turn != nullptr ? static_cast<int>(stage.slice % kCopies) : 0;
  unsigned int* turn = p.turn != nullptr ? p.turn + (group_chunk * p.key_blocks + stage.own) * kCopies + copy : nullptr;
  if (turn != nullptr) {
    if (threadIdx.x == 0) wait_for(turn, pairs_before(p, stage));
    consumer_barrier();
  }
  const int64_t first = (group_chunk * p.S + stage.own * kKeyBlock) * kD + copy * p.copy_step;
  flush_sums<kD, true>(p.dk + first, dk, keys_left);
  flush_sums<kD, true>(p.dv + first, dv, keys_left);
  if (turn != nullptr) {
    consumer_barrier();
    if (threadIdx.x == 0) add_release(turn, stage.run_pairs);
  }
}
#endif

template <int kD, bool kShort>
__global__ void __launch_bounds__(kBackwardThreads, kD <= 64 ? 2 : 1)
    backward_kernel(const __grid_constant__ Params p, const __grid_constant__ Maps maps) {
#if CAIRN_HAS_WGMMA
  constexpr int kStages = backward_stages(kD), kPanels = (kD + 63) / 64, kBlockBytes = kPanels * kPanelBytes;
  extern __shared__ uint8_t raw[];
  __shared__ Shared<kStages, 2> shared;
  const uint32_t base = (shared_address(raw) + 1023) & ~1023u;
  prepare(p, shared, base, p.shared_bytes - 1024);
  constexpr int kFetching = kShort ? 72 : 48;  // registers
  // Two thread blocks share a multiprocessor: the computing warps take over registers that the others do not need.
  if (threadIdx.x >= kThreads) {
    if constexpr (kD <= 64) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kFetching));
    Producer<kD, kStages, 2> producer(p, maps, shared, base);
    const int warp = static_cast<int>(threadIdx.x - kThreads) / 32;
    if (warp == 0) {
      producer.run();
    } else if (warp <= kStages) {
      producer.help(warp - 1);
    }
    return;
  }
  if constexpr (kD <= 64) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(256 - kFetching));
  float dk[kPanels * 32], dv[kPanels * 32];
#pragma unroll
  for (int i = 0; i < kPanels * 32; ++i) dk[i] = dv[i] = 0;
  const uint32_t tiles = base + static_cast<uint32_t>(p.tiles_at);
  for (Cursor<kStages, 2> cursor{shared};;) {
    const Stage<2>& stage = cursor.wait();
    if (stage.kind == Kind::kLast) break;
    const int block = stage.block;
    if (stage.kind == Kind::kReduce) {
      const uint32_t number = stage.number;
      reduce_item<kD>(p, cursor, tiles, 2 * kBlockBytes);
      if (p.partial_dot != nullptr) reduce_dots(p, block, number);
      consumer_barrier();
      if (threadIdx.x == 0) add_release(p.reduce_done + block, 1);
      continue;
    }
    if (p.by_lanes) fence_shared_for_matrix();
    backward_tile<kD, kShort>(p, stage, base, tiles + static_cast<uint32_t>(2 * cursor.s * kBlockBytes), dk, dv);
    const bool item_ends = stage.item_ends;
    if (stage.run_ends) {
      release(shared.chunk_empty[stage.chunk_slot]);
      flush_run<kD>(p, stage, dk, dv);
    }
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
cudaError_t launch_backward(const Params& p, int processors, cudaStream_t stream) {
  int grid = 0;
  Maps maps;
  const auto kernel = p.key_blocks == 1 ? backward_kernel<kD, true> : backward_kernel<kD, false>;
  cudaError_t error = make_maps(p, &maps);
  if (error == cudaSuccess) error = persistent_grid(kernel, kBackwardThreads, processors, p, &grid);
  if (error != cudaSuccess) return error;
  kernel<<<grid, kBackwardThreads, static_cast<size_t>(p.shared_bytes), stream>>>(p, maps);
  return cudaGetLastError();
}

}  // namespace cairn::hsa_cuda
