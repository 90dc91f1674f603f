// Memory attention forward in union order (docs/kernels-cuda.md): a thread block has neighbouring tokens, goes once through all chunks that
// any of them chose, in ascending order, and keeps its share of o in registers to the end. Nothing is inverted and no partial result is
// written: the better order where neighbours choose alike, as those of trained models do, or have few chunks to choose from.
//
// Keys and values come through shared memory for the whole thread block, but every warp works for itself, on one or two strips of 16 rows:
// heads of one token, or of a few where a group has fewer than 16. It goes through chunks of its own tokens only, which other warps found
// and wrote down a tile ahead; what two strips of a warp both chose is loaded once. Warp groups that share a matrix instruction (wgmma.cuh)
// were slower: they compute for all their tokens what one of them chose, and wait for each other.
#pragma once

#include "cairn/ops/hsa/cuda/mma.cuh"
#include "cairn/ops/hsa/cuda/union_lists.cuh"

namespace cairn::hsa_cuda {

#if CAIRN_HAS_WGMMA
// What a thread knows of a row of its strips: the token's list from where it has come to, and what it shows there.
struct UnionRow {
  const UnionEntry* entry;
  uint32_t next;
  float weight;
  const void* weights;  // [N] of the head, where each has its own
  float* lse;           // [N] of the head, or null

  template <bool kOwnWeights>
  __device__ void look(const Params& p) {
    next = entry->chunk;
    if constexpr (!kOwnWeights) {
      weight = entry->weight;
    } else if (next != kNoChunk) {
      const uint32_t n = entry->slot;
      weight = p.weight_bf16 ? __bfloat162float(static_cast<const __nv_bfloat16*>(weights)[n]) : static_cast<const float*>(weights)[n];
    }
  }
};

// The softmax of a strip's scores x: probabilities in the order in which the matrix instruction takes them, and of the thread's two rows
// the factor of their share of o, 0 where the row's token did not choose the chunk; then the rows' lists are moved on. kWhole: chunks of 64
// keys, and nobody asks for log-sum-exps. Then there is no branch, so that the compiler can work on two strips at a time, and probabilities
// are summed by the matrix instruction, as rounded; a log-sum-exp would show that, so otherwise in fp32 before.
template <int kRows, bool kWhole>
__device__ inline void union_softmax(const Params& p, const float (&x)[32], uint32_t chunk, UnionRow (&row)[kRows],
                                     uint32_t (&probabilities)[4][4], float (&f)[2]) {
  constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;
  const float scale = p.scale * kLog2e;
  float top[2], total[2];
  [[maybe_unused]] float sum[2][2] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float m[2] = {fmaxf(x[2 * i], x[2 * i + 1]), fmaxf(x[2 * i + 4], x[2 * i + 5])};
#pragma unroll
    for (int j = 2; j < 8; ++j) m[j % 2] = fmaxf(m[j % 2], fmaxf(x[4 * j + 2 * i], x[4 * j + 2 * i + 1]));
    top[i] = fmaxf(p.off_by_one ? 0.0f : -INFINITY, row_max(fmaxf(m[0], m[1])) * scale);
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float a = exp2_fast(fmaf(x[4 * j + 2 * i], scale, -top[i])), b = exp2_fast(fmaf(x[4 * j + 2 * i + 1], scale, -top[i]));
      if constexpr (!kWhole) sum[i][j % 2] += a + b;
      probabilities[j / 2][j % 2 * 2 + i] = pack_bf16(a, b);
    }
  }
  [[maybe_unused]] float y[4] = {};
  if constexpr (kWhole) {
    constexpr uint32_t kOnes[2] = {0x3f803f80, 0x3f803f80};
#pragma unroll
    for (int t = 0; t < 4; ++t) multiply(y, probabilities[t], kOnes);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const UnionRow& r = row[i % kRows];
    if constexpr (kWhole) {
      total[i] = y[2 * i];
    } else {
      total[i] = row_sum(sum[i][0] + sum[i][1]);
    }
    if (p.off_by_one) total[i] += exp2_fast(-top[i]);
    f[i] = kRows == 1 || r.next == chunk ? r.weight * reciprocal(total[i]) : 0.0f;
  }
  if (!kWhole && p.lse != nullptr && threadIdx.x % 4 == 0) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const UnionRow& r = row[i % kRows];
      if (kRows == 1 || r.next == chunk) r.lse[(kRows == 1 ? 8 * i * p.N : 0) + r.entry->slot] = (top[i] + __log2f(total[i])) * kLn2;
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (kRows == 1 || row[i].next == chunk) {
      ++row[i].entry;
      if (kRows == 1 || p.Hw != p.H) {
        row[i].template look<false>(p);
      } else {
        row[i].template look<true>(p);
      }
    }
  }
}

// One chunk for kCount strips of a warp from kFirst on: o += weight softmax(q k^T) v for the rows whose token chose it. What is loaded of
// keys and values serves all of them. q, x, o in the order of the matrix instruction; lane_keys and lane_values: offsets of the lane's
// addresses for load_matrices (see union_consume). kRows: rows of the thread and strip that may belong to different tokens or have weights
// of their own, 1 or 2; with 1, row 8 further shares token and weight, and the token chose the chunk.
template <int kD, int kRows, bool kWhole, int kFirst, int kCount, int kStrips>
__device__ inline void union_chunk(const Params& p, const uint32_t (&q)[kStrips][kD / 16][4], uint32_t keys, uint32_t lane_keys,
                                   uint32_t lane_values, uint32_t chunk, UnionRow (&row)[kStrips][kRows], float (&o)[kStrips][kD / 2]) {
  float x[kCount][32] = {};
#pragma unroll
  for (int step = 0; step < kD / 32; ++step) {
    const uint32_t at = keys + step / 2 * kPanelBytes + (lane_keys ^ step % 2 * 64);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      uint32_t k[4];
      load_matrices(k, at + j * 1024);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) multiply(x[i] + 4 * j, q[kFirst + i][2 * step + half], k + 2 * half);
      }
    }
  }
  uint32_t probabilities[kCount][4][4];
  float f[kCount][2];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (!kWhole && p.S < kKeyBlock) mask_columns(x[i], static_cast<int>(p.S));
    union_softmax<kRows, kWhole>(p, x[i], chunk, row[kFirst + i], probabilities[i], f[i]);
  }
  const uint32_t values = keys + UnionLayout<kD>::kBlockBytes;
#pragma unroll
  for (int n = 0; n < kD / 16; ++n) {  // 16 columns of o
    const uint32_t at = values + n / 4 * kPanelBytes + (lane_values ^ n % 4 * 32);
    float y[kCount][8] = {};
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      uint32_t v[4];
      load_matrices_transposed(v, at + t * 2048);
#pragma unroll
      for (int i = 0; i < kCount; ++i) multiply(y[i], probabilities[i][t], v), multiply(y[i] + 4, probabilities[i][t], v + 2);
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int e = 0; e < 8; ++e) o[kFirst + i][8 * n + e] = fmaf(f[i][e % 4 / 2], y[i][e], o[kFirst + i][8 * n + e]);
    }
  }
}

// A warp's strips, tile after tile.
template <int kD, int kRows, bool kWhole>
__device__ inline void union_consume(const Params& p, UnionShared& shared, const UnionLayout<kD>& at) {
  constexpr int kBlockBytes = UnionLayout<kD>::kBlockBytes, kStrips = UnionLayout<kD>::kWarpStrips;
  static_assert(kStrips == 1 || kStrips == 2);
  const int warp = __shfl_sync(0xffffffff, static_cast<int>(threadIdx.x) / 32, 0), c = static_cast<int>(threadIdx.x) % 32;
  // Of a panel (wgmma.cuh says how its rows lie) load_matrices takes 8 rows x 4 pieces of 16 bytes of keys, 16 rows x 2 pieces of values. 8
  // rows further is 1024 bytes further, pieces are further by XOR.
  const uint32_t lane_keys = kept(static_cast<uint32_t>(c % 8 * 128 + (c / 8 ^ c % 8) * 16)),
                 lane_values = kept(static_cast<uint32_t>(c % 16 * 128 + (c / 16 ^ c % 8) * 16));
  const uint32_t full = kept(shared_address(shared.full)), empty = kept(shared_address(shared.empty)), keys = kept(at.stages);
  // Token of the tile and head of the group of a row of the thread.
  const auto who = [&](int strip, int i) { return shared.rows[(warp * kStrips + strip) * kStripRows + c / 4 + 8 * i]; };
  for (int round = 0;; ++round) {
    UnionRow row[kStrips][kRows];
    uint32_t visits;
    const UnionFetch* fetches;
    {
      const UnionPlace place(p, at.tokens, round);
      if (place.here == 0) break;
      const int buffer = place.buffer();
      barrier_wait(shared_address(&shared.tile_full[buffer]), place.phase());
      visits = shared_address(at.visits_of(buffer, warp)), fetches = at.fetches_of(buffer);
#pragma unroll
      for (int i = 0; i < kStrips * kRows; ++i) {
        UnionRow& r = row[i / kRows][i % kRows];
        const uint32_t w = who(i / kRows, i % kRows);
        const int t = static_cast<int>(w >> 8), head = place.g * p.R + static_cast<int>(w & 255);
        const bool valid = t < place.here;
        r.entry = at.entries_of(buffer, valid ? t : 0) + (valid ? 0 : at.N);
        if (kRows == 2 || (!kWhole && p.lse != nullptr)) {
          const int64_t first = (static_cast<int64_t>(place.row(p) + static_cast<uint32_t>(t)) * p.H + head) * p.N;
          r.weights = static_cast<const char*>(p.weight) + first * (p.weight_bf16 ? 2 : 4), r.lse = p.lse + first;
        }
        if (kRows == 1 || p.Hw != p.H) {
          r.template look<false>(p);
        } else {
          r.template look<true>(p);
        }
      }
    }
    uint32_t q[kStrips][kD / 16][4];
#pragma unroll
    for (int i = 0; i < kStrips * kD / 16; ++i) {
      const int strip = i / (kD / 16), column = i % (kD / 16);
      const uint32_t piece = static_cast<uint32_t>(column % 4 * 2 + c / 16) ^ static_cast<uint32_t>(c % 8);
      load_matrices(q[strip][column], at.queries + static_cast<uint32_t>(column / 4 * UnionLayout<kD>::kQueryPanel) +
                                          static_cast<uint32_t>((warp * kStrips + strip) * kStripRows + c % 16) * 128 + piece * 16);
    }
    release(shared.queries_empty);
    float o[kStrips][kD / 2] = {};
    for (UnionVisit visit = load_visit(visits), next; visit.bits != UnionVisit::kNone; visit = next) {
      next = load_visit(visits += sizeof(UnionVisit));
      const uint32_t chunk_keys = keys + 2 * visit.stage() * kBlockBytes, chunk = kRows == 1 ? 0 : fetches[visit.fetch()].chunk;
      barrier_wait(full + 8 * visit.barrier(), visit.phase());
      if (kStrips == 2 && visit.strip(0) && visit.strip(1)) {
        union_chunk<kD, kRows, kWhole, 0, kStrips>(p, q, chunk_keys, lane_keys, lane_values, chunk, row, o);
      } else if (visit.strip(0)) {
        union_chunk<kD, kRows, kWhole, 0, 1>(p, q, chunk_keys, lane_keys, lane_values, chunk, row, o);
      } else if (kStrips == 2 && visit.strip(1)) {
        union_chunk<kD, kRows, kWhole, kStrips - 1, 1>(p, q, chunk_keys, lane_keys, lane_values, chunk, row, o);
      }
      __syncwarp();
      if (kArrivals > 1 || c == 0) barrier_arrive(empty + 8 * visit.stage());
    }
    asm volatile("" : "+r"(round));  // what follows from it is computed anew rather than kept
    const UnionPlace place(p, at.tokens, round);
    release(shared.tile_empty[place.buffer()]);
#pragma unroll
    for (int i = 0; i < kStrips * 2; ++i) {
      const uint32_t w = who(i / 2, i % 2), t = w >> 8, head = static_cast<uint32_t>(place.g * p.R) + (w & 255);
      if (t >= static_cast<uint32_t>(place.here)) continue;
      uint32_t* to = static_cast<uint32_t*>(p.o) + ((static_cast<int64_t>(place.row(p) + t) * p.H + head) * kD) / 2 + c % 4;
      // Four threads write half a sector; the L2 cache puts them together, at less cost than exchanging numbers between threads.
#pragma unroll
      for (int j = 0; j < kD / 8; ++j) to[4 * j] = pack_bf16(o[i / 2][4 * j + 2 * (i % 2)], o[i / 2][4 * j + 2 * (i % 2) + 1]);
    }
  }
}
#endif

// Of the last four warps one fetches and three make lists. They hand registers to the others: 12 warps of 168 a thread are 8 of 232 and 4
// of 40.
constexpr int union_threads(int64_t D) { return static_cast<int>(union_strips(D) / union_strips_a_warp(D) + 4) * 32; }

template <int kD, int kRows, bool kWhole>
__global__ void __launch_bounds__(union_threads(kD), 1)
    union_forward_kernel(const __grid_constant__ Params p, const __grid_constant__ Maps maps) {
#if CAIRN_HAS_WGMMA
  if (p.in_union_order != nullptr && *p.in_union_order == 0) return;
  constexpr int kConsumers = UnionLayout<kD>::kWarps * 32, kBlockBytes = UnionLayout<kD>::kBlockBytes;
  extern __shared__ uint8_t raw[];
  __shared__ UnionShared shared;
  const UnionLayout<kD> at(p, raw);
  if (threadIdx.x == 0) {
    prefetch_map(&maps.q), prefetch_map(&maps.k), prefetch_map(&maps.v);
    for (int i = 0; i < p.union_stages; ++i) {
      barrier_init(shared_address(&shared.full[i]), 1), barrier_init(shared_address(&shared.full[i + 16]), 1);
      barrier_init(shared_address(&shared.empty[i]), kConsumers / 32 * kArrivals);
    }
    for (int i = 0; i < 2; ++i) {
      barrier_init(shared_address(&shared.tile_full[i]), kListThreads);
      barrier_init(shared_address(&shared.tile_empty[i]), 1 + kConsumers / 32 * kArrivals);
    }
    barrier_init(shared_address(&shared.queries_empty), kConsumers / 32 * kArrivals);
    barrier_init_done();
  }
  for (int i = static_cast<int>(threadIdx.x); i < UnionLayout<kD>::kStrips * kStripRows; i += static_cast<int>(blockDim.x)) {
    const int strip = i / kStripRows, row = i % kStripRows;
    shared.rows[i] = static_cast<uint32_t>(at.rows.token_of(strip, row)) << 8 | static_cast<uint32_t>(at.rows.head_of(strip, row) & 255);
    const int first = at.rows.first_token(strip);
    if (row == 0) at.tokens_of[strip] = first < at.tokens ? ((1u << at.rows.strip_tokens) - 1) << first : 0;
  }
  if (at.chosen_by != nullptr) {
    for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(p.C); i += static_cast<int>(blockDim.x)) at.chosen_by[i] = 0;
  }
  if (p.S < kKeyBlock) {  // values behind the chunk's last one are multiplied, by 0
    for (uint32_t i = threadIdx.x * 16; i < static_cast<uint32_t>(2 * p.union_stages * kBlockBytes); i += blockDim.x * 16) {
      asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};\n" ::"r"(at.stages + i), "r"(0) : "memory");
    }
    fence_shared_for_matrix();
  }
  __syncthreads();
  if (threadIdx.x >= kConsumers) {
    keep_registers<40>();
    if (threadIdx.x < kConsumers + 32) {
      union_produce<kD>(p, maps, shared, at);
    } else {
      union_make_lists<kD>(p, maps, shared, at, static_cast<int>(threadIdx.x) - kConsumers - 32);
    }
  } else {
    take_registers<232>();
    union_consume<kD, kRows, kWhole>(p, shared, at);
  }
#endif
}

template <int kD>
cudaError_t launch_union_forward(const Params& p, int processors, cudaStream_t stream) {
  Maps maps;
  cudaError_t error = make_maps(p, &maps);
  if (error != cudaSuccess) return error;
  const bool whole = p.S == kKeyBlock && p.lse == nullptr;
  const auto kernel = p.R % 16 == 0 && p.Hw != p.H ? (whole ? union_forward_kernel<kD, 1, true> : union_forward_kernel<kD, 1, false>)
                                                   : (whole ? union_forward_kernel<kD, 2, true> : union_forward_kernel<kD, 2, false>);
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, p.union_bytes);
  if (error != cudaSuccess) return error;
  const int64_t tiles = static_cast<int64_t>(p.union_tiles) * p.B * p.G;
  const unsigned int grid = static_cast<unsigned int>(tiles < processors ? tiles : processors);
  kernel<<<grid, union_threads(kD), static_cast<size_t>(p.union_bytes), stream>>>(p, maps);
  return cudaGetLastError();
}

}  // namespace cairn::hsa_cuda
