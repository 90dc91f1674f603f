// What the forward in union order (union_forward.cuh) works on, and the warps that bring it: where things lie in shared memory, the tokens'
// lists of chunks, queries, and chunk after chunk of keys and values.
#pragma once

#include "cairn/ops/hsa/cuda/launch.h"
#include "cairn/ops/hsa/cuda/produce.cuh"

namespace cairn::hsa_cuda {

#if CAIRN_HAS_WGMMA
constexpr uint32_t kNoChunk = 0xffffffffu;
constexpr int kListThreads = 96;  // that make lists: three warps
constexpr int kWarpRows = 16;

// What the producer tells the consumers about a stage: a chunk, or kNoChunk behind the last one of a tile, and who chose it (bits: tokens
// of the tile; warps where there are more than 32 tokens); all of them where it is the last.
struct __align__(8) UnionStage {
  uint32_t chunk, who;
};
__device__ inline UnionStage load_stage(uint32_t at) {
  UnionStage stage;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];\n" : "=r"(stage.chunk), "=r"(stage.who) : "r"(at) : "memory");
  return stage;
}
// An address in a register: the compiler would rather compute it anew wherever it is used.
__device__ inline uint32_t kept(uint32_t address) {
  asm volatile("" : "+r"(address));
  return address;
}

// "Tile": the tokens of a thread block. Queries and lists of a tile are made while the one before is worked on.
struct UnionShared {
  uint64_t full[kMostUnionStages], empty[kMostUnionStages], tile_full[2], tile_empty[2], queries_empty;
  UnionStage stage[kMostUnionStages];
};

// A chosen chunk of a token, its slot and, unless each head has its own, its weight.
struct __align__(16) UnionEntry {
  uint32_t chunk, slot;
  float weight;
};

// Who has which rows: a token has several warps, or a warp several tokens.
struct UnionRows {
  int R, warp_tokens, token_warps, tokens;  // tokens of the tile

  __device__ UnionRows(const Params& p, int warps)
      : R(p.R),
        warp_tokens(p.R < kWarpRows ? kWarpRows / p.R : 1),
        token_warps((p.R + kWarpRows - 1) / kWarpRows),
        tokens(warps / token_warps * warp_tokens) {}
  __device__ int first_token(int warp) const { return warp / token_warps * warp_tokens; }
  __device__ int first_row(int token) const {  // of the tile's queries
    return token / warp_tokens * token_warps * kWarpRows + token % warp_tokens * R;
  }
  // Row of a warp: its token among those of the tile, at least `tokens` where there is none, and its head.
  __device__ int token_of(int warp, int row) const {
    const int in_warp = R < kWarpRows ? row / R : 0;
    return in_warp < warp_tokens && head_of(warp, row) < R ? first_token(warp) + in_warp : tokens;
  }
  __device__ int head_of(int warp, int row) const { return R < kWarpRows ? row % R : warp % token_warps * kWarpRows + row; }
};

// Where things lie in dynamic shared memory: queries [panels][rows], stages of keys and values; then, of each token of a tile, its chosen
// chunks in ascending order, kNoChunk behind the last one.
template <int kD>
struct UnionLayout {
  static constexpr int kWarps = union_warps(kD), kPanels = (kD + 63) / 64, kBlockBytes = kPanels * kPanelBytes;
  static constexpr int kQueryPanel = kWarps * kWarpRows * 128;
  uint32_t queries, stages;
  UnionEntry* entries;  // [2][tokens][N + 1]
  uint32_t* unsorted;   // [tokens][N]
  uint16_t* passed;     // [tokens] chunks that the producer has passed
  UnionRows rows;
  int tokens, N;

  __device__ UnionLayout(const Params& p, uint8_t* raw) : rows(p, kWarps), tokens(rows.tokens), N(static_cast<int>(p.N)) {
    uint8_t* const tiles = raw + (1024 - shared_address(raw) % 1024) % 1024;
    queries = shared_address(tiles), stages = queries + kPanels * kQueryPanel;
    entries = reinterpret_cast<UnionEntry*>(tiles + kPanels * kQueryPanel + 2 * p.union_stages * kBlockBytes);
    unsorted = reinterpret_cast<uint32_t*>(entries + 2 * tokens * (N + 1));
    passed = reinterpret_cast<uint16_t*>(unsorted + tokens * N);
  }
  __device__ UnionEntry* entries_of(int buffer, int token) const { return entries + (buffer * tokens + token) * (N + 1); }
};

// The thread block's tiles, one after the other: sequence, K/V head, first token. Late tokens first, which have most chunks to choose from,
// and every other round backwards, so that who had the most gets the least.
struct UnionPlace {
  int round, first = 0, here = 0, b = 0, g = 0;  // here: tokens of the tile that there are; none behind the last round

  __device__ UnionPlace(const Params& p, int tokens, int round_in) : round(round_in) {
    const uint32_t groups = static_cast<uint32_t>(p.G), heads = static_cast<uint32_t>(p.B) * groups;
    const uint32_t L = static_cast<uint32_t>(p.L), width = static_cast<uint32_t>(tokens), tiles = (L + width - 1) / width;
    const uint32_t in_round = round % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x;
    const uint32_t at = static_cast<uint32_t>(round) * gridDim.x + in_round;
    if (at >= tiles * heads) return;
    uint32_t tile = tiles - 1 - at;
    if (heads > 1) {
      tile = tiles - 1 - at / heads;
      const uint32_t head = at % heads;
      b = static_cast<int>(head / groups), g = static_cast<int>(head % groups);
    }
    first = static_cast<int>(tile * width);
    here = static_cast<int>(min(width, L - tile * width));
  }
  __device__ int buffer() const { return round & 1; }
  __device__ uint32_t phase() const { return static_cast<uint32_t>(round >> 1 & 1); }
  // Of the tile's first token, in rows of all sequences.
  __device__ uint32_t row(const Params& p) const {
    return static_cast<uint32_t>(b) * static_cast<uint32_t>(p.L) + static_cast<uint32_t>(first);
  }
};

__device__ inline void list_barrier() { asm volatile("bar.sync 2, %0;\n" ::"n"(kListThreads) : "memory"); }

// The warps that fetch queries and sort every token's chunks, by counting the smaller ones.
template <int kD>
__device__ inline void union_make_lists(const Params& p, const Maps& maps, UnionShared& shared, const UnionLayout<kD>& at, int thread) {
  constexpr int kPanels = UnionLayout<kD>::kPanels;
  const int N = at.N, R = p.R;
  for (int round = 0;; ++round) {
    const UnionPlace place(p, at.tokens, round);
    if (place.here == 0) break;
    const int buffer = place.buffer(), hw = p.Hw == 1 ? 0 : place.g;
    const uint32_t full = shared_address(&shared.tile_full[buffer]);
    for (int e = thread; e < at.tokens * N; e += kListThreads) {
      const int64_t row = place.row(p) + e / N;
      const int64_t chunk = e / N < place.here ? p.index[(row * p.Gi + (p.Gi == 1 ? 0 : place.g)) * N + e % N] : -1;
      at.unsorted[e] = chunk >= 0 && chunk < p.C ? static_cast<uint32_t>(chunk) : kNoChunk;
    }
    barrier_wait_idly(shared_address(&shared.tile_empty[buffer]), place.phase() ^ 1);
    list_barrier();
    for (int t = thread; t < at.tokens; t += kListThreads) at.entries_of(buffer, t)[N].chunk = kNoChunk;
    for (int e = thread; e < at.tokens * N; e += kListThreads) {
      const int t = e / N, n = e - t * N;
      const uint32_t mine = at.unsorted[e], *others = at.unsorted + t * N;
      uint32_t bits = 0;
      if (p.Hw != p.H && mine != kNoChunk) bits = load_weight(p, (static_cast<int64_t>(place.row(p) + t) * p.Hw + hw) * N + n);
      int rank = 0;
      for (int m = 0; m < N; ++m) rank += others[m] < mine || (others[m] == mine && m < n);
      at.entries_of(buffer, t)[rank] = {mine, static_cast<uint32_t>(n), weight_of(p, bits)};
    }
    barrier_wait_idly(shared_address(&shared.queries_empty), static_cast<uint32_t>(round & 1) ^ 1);
    for (int t = thread; t < place.here; t += kListThreads) {
      const uint32_t to = at.queries + static_cast<uint32_t>(at.rows.first_row(t) * 128);
      for (int panel = 0; panel < kPanels; ++panel) {
        copy_box(to + static_cast<uint32_t>(panel * UnionLayout<kD>::kQueryPanel), &maps.q, full, panel * 64, place.g * R, place.first + t,
                 place.b);
      }
    }
    list_barrier();  // nobody reads `unsorted` any more
    if (thread == 0) {
      barrier_expect(full, static_cast<uint32_t>(place.here * R * kPanels * 128));
    } else {
      barrier_arrive(full);
    }
  }
}

// The lists of a tile, merged: its chunks one after the other, and who chose them. A token a lane; kMany: more, where a group has few
// heads.
template <int kD, bool kMany>
class UnionMerge {
 public:
  __device__ UnionMerge(const UnionLayout<kD>& at_in, int here_in, int buffer_in)
      : at(at_in), lane(static_cast<int>(threadIdx.x) % 32), here(here_in), buffer(buffer_in) {
    if constexpr (!kMany) {
      list = at.entries_of(buffer, lane < here ? lane : 0);
      if (lane < here) head = list[0].chunk;
      if (head != kNoChunk) after = list[1].chunk;
    } else {
      for (int t = lane; t < here; t += 32) at.passed[t] = 0;
      __syncwarp();
    }
  }
  __device__ UnionStage next() {
    if constexpr (!kMany) {
      const uint32_t chunk = __reduce_min_sync(0xffffffff, head), who = __ballot_sync(0xffffffff, head == chunk);
      if (chunk == kNoChunk) return {chunk, ~0u};
      if (head == chunk) {
        head = after, ++list;
        if (head != kNoChunk) after = list[1].chunk;
      }
      return {chunk, who};
    }
    uint32_t chunk = kNoChunk, who = 0;
    for (int t = lane; t < here; t += 32) chunk = min(chunk, at.entries_of(buffer, t)[at.passed[t]].chunk);
    chunk = __reduce_min_sync(0xffffffff, chunk);
    if (chunk == kNoChunk) return {chunk, ~0u};
    for (int t = lane; t < here; t += 32) {
      if (at.entries_of(buffer, t)[at.passed[t]].chunk == chunk) ++at.passed[t], who |= 1u << t / at.rows.warp_tokens;
    }
    return {chunk, __reduce_or_sync(0xffffffff, who)};
  }

 private:
  const UnionLayout<kD>& at;
  const int lane, here, buffer;
  const UnionEntry* list = nullptr;
  uint32_t head = kNoChunk, after = kNoChunk;
};

// The warp that fetches chunk after chunk.
template <int kD, bool kMany>
__device__ inline void union_produce(const Params& p, const Maps& maps, UnionShared& shared, const UnionLayout<kD>& at) {
  constexpr int kPanels = UnionLayout<kD>::kPanels, kBlockBytes = UnionLayout<kD>::kBlockBytes;
  const int lane = static_cast<int>(threadIdx.x) % 32, S = static_cast<int>(p.S), tensor = lane % 2, panel = lane / 2;
  const CUtensorMap* map = tensor == 0 ? &maps.k : &maps.v;
  int s = 0;
  uint32_t phase = 0;
  for (int round = 0;; ++round) {
    const UnionPlace place(p, at.tokens, round);
    if (place.here == 0) break;
    barrier_wait(shared_address(&shared.tile_full[place.buffer()]), place.phase());
    UnionMerge<kD, kMany> merge(at, place.here, place.buffer());
    for (bool last = false; !last;) {
      const UnionStage stage = merge.next();
      last = stage.chunk == kNoChunk;
      const uint32_t full = shared_address(&shared.full[s]);
      barrier_wait(shared_address(&shared.empty[s]), phase ^ 1);
      if (!last && lane < 2 * kPanels) {
        copy_box(at.stages + static_cast<uint32_t>((2 * s + tensor) * kBlockBytes + panel * kPanelBytes), map, full, panel * 64, place.g,
                 static_cast<int>(stage.chunk) * S, place.b);
      }
      if (lane == 0) {
        shared.stage[s] = stage;
        barrier_expect(full, last ? 0 : static_cast<uint32_t>(2 * S * kPanels * 128));
      }
      __syncwarp();
      if (++s == p.union_stages) s = 0, phase ^= 1;
    }
    if (lane == 0) barrier_arrive(shared_address(&shared.tile_empty[place.buffer()]));
  }
}
#endif

}  // namespace cairn::hsa_cuda
