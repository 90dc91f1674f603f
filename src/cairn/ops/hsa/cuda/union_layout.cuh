// What the forward in union order (union_forward.cuh) works on: tiles of tokens, their lists of chunks, and where everything lies in shared
// memory.
#pragma once

#include "cairn/ops/hsa/cuda/launch.h"
#include "cairn/ops/hsa/cuda/produce.cuh"

namespace cairn::hsa_cuda {

#if CAIRN_HAS_WGMMA
constexpr uint32_t kNoChunk = 0xffffffffu;
constexpr int kListThreads = 96;  // that make lists: three warps
constexpr int kStripRows = 16, kMostUnionRows = union_strips(64) * kStripRows;

// A stage of the ring that a warp waits for: which, for which of the warp's strips, and which fetch of the tile lies there. Of no strip:
// the ring's first stage, where every warp goes in every round. So no warp is more than a round ahead of a copy, and can tell from the
// parity of the phases of two barriers, which a stage's uses take in turns, whether it has arrived; further ahead it could not.
struct UnionVisit {
  uint32_t bits;

  static constexpr uint32_t kNone = 0xffffffff;  // behind the last visit of a tile
  static __device__ uint32_t of(uint32_t stage, uint32_t use, uint32_t strips, uint32_t fetch) {
    return stage | (use & 3) << 4 | strips << 6 | fetch << 16;
  }
  __device__ uint32_t stage() const { return bits & 15; }
  __device__ uint32_t barrier() const { return bits & 31; }
  __device__ uint32_t phase() const { return bits >> 5 & 1; }
  __device__ bool strip(int i) const { return (bits & (64u << i)) != 0; }
  __device__ uint32_t fetch() const { return bits >> 16; }
};
__device__ inline uint32_t load_word(uint32_t at) {
  uint32_t word;
  asm volatile("ld.shared.b32 %0, [%1];\n" : "=r"(word) : "r"(at) : "memory");
  return word;
}
__device__ inline UnionVisit load_visit(uint32_t at) { return {load_word(at)}; }
// A chunk that the thread block fetches, and how many of its warps do not need it.
struct __align__(8) UnionFetch {
  uint32_t chunk, unconcerned;
};
// An address in a register: the compiler would rather compute it anew wherever it is used.
__device__ inline uint32_t kept(uint32_t address) {
  asm volatile("" : "+r"(address));
  return address;
}

// "Tile": the tokens of a thread block. Queries and lists of a tile are made while the one before is worked on.
struct UnionShared {
  uint64_t full[32], empty[kMostUnionStages], tile_full[2], tile_empty[2], queries_empty;  // full: UnionVisit::barrier()
  uint32_t rows[kMostUnionRows];  // of the tile: token << 8 | head of the group; a token that there is not where the row is not used
  int fetches[2];                 // of the tile in each buffer
};

// A chosen chunk of a token, its slot and, unless each head has its own, its weight.
struct __align__(16) UnionEntry {
  uint32_t chunk, slot;
  float weight;
};

// Who has which rows of the tile's strips: a token has several strips, or a strip several tokens.
struct UnionRows {
  int R, strip_tokens, token_strips, tokens;  // tokens of the tile

  __device__ UnionRows(const Params& p, int strips)
      : R(p.R),
        strip_tokens(p.R < kStripRows ? kStripRows / p.R : 1),
        token_strips((p.R + kStripRows - 1) / kStripRows),
        tokens(strips / token_strips * strip_tokens) {}
  __device__ int first_token(int strip) const { return strip / token_strips * strip_tokens; }
  __device__ int first_row(int token) const {  // of the tile's queries
    return token / strip_tokens * token_strips * kStripRows + token % strip_tokens * R;
  }
  // Row of a strip: its token among those of the tile, at least `tokens` where there is none, and its head.
  __device__ int token_of(int strip, int row) const {
    const int in_strip = R < kStripRows ? row / R : 0;
    return in_strip < strip_tokens && head_of(strip, row) < R ? first_token(strip) + in_strip : tokens;
  }
  __device__ int head_of(int strip, int row) const { return R < kStripRows ? row % R : strip % token_strips * kStripRows + row; }
};

// Where things lie in dynamic shared memory: queries [panels][rows], stages of keys and values; then, of each token of a tile, its chosen
// chunks in ascending order, kNoChunk behind the last one; what is fetched for the tile, and the visits of each warp.
template <int kD>
struct UnionLayout {
  static constexpr int kStrips = union_strips(kD), kWarpStrips = union_strips_a_warp(kD), kWarps = kStrips / kWarpStrips;
  static constexpr int kPanels = (kD + 63) / 64, kBlockBytes = kPanels * kPanelBytes, kQueryPanel = kStrips * kStripRows * 128;
  uint32_t queries, stages;
  UnionEntry* entries;  // [2][tokens][N + 1]
  UnionFetch* fetches;  // [2][tokens N]
  UnionVisit* visits;   // [2][warps][most + 1]
  uint2* unsorted;      // [tokens][N] chunk, bits of its weight
  uint32_t* chosen_by;  // [C] bits: tokens of the tile; null where there are more than kFewChunks
  uint32_t* tokens_of;  // [strips] bits: tokens of the tile
  UnionRows rows;
  int tokens, N, most;  // visits of a warp, with those of no strip

  __device__ UnionLayout(const Params& p, uint8_t* raw)
      : rows(p, kStrips), tokens(rows.tokens), N(static_cast<int>(p.N)), most(union_most_visits(kD, p.R, N)) {
    uint8_t* const tiles = raw + (1024 - shared_address(raw) % 1024) % 1024;
    queries = shared_address(tiles), stages = queries + kPanels * kQueryPanel;
    entries = reinterpret_cast<UnionEntry*>(tiles + kPanels * kQueryPanel + 2 * p.union_stages * kBlockBytes);
    fetches = reinterpret_cast<UnionFetch*>(entries + 2 * tokens * (N + 1));
    unsorted = reinterpret_cast<uint2*>(fetches + 2 * tokens * N);
    visits = reinterpret_cast<UnionVisit*>(unsorted + tokens * N);
    tokens_of = reinterpret_cast<uint32_t*>(visits + 2 * kWarps * (most + 1));
    chosen_by = p.C <= kFewChunks ? tokens_of + kStrips : nullptr;
  }
  __device__ UnionEntry* entries_of(int buffer, int token) const { return entries + (buffer * tokens + token) * (N + 1); }
  __device__ UnionVisit* visits_of(int buffer, int warp) const { return visits + (buffer * kWarps + warp) * (most + 1); }
  __device__ UnionFetch* fetches_of(int buffer) const { return fetches + buffer * tokens * N; }
};

// The thread block's tiles, one after the other: sequence, K/V head, first token. Late tokens first, which have most chunks to choose from,
// and every other round backwards, so that who had the most gets the least.
struct UnionPlace {
  int round, first = 0, here = 0, b = 0, g = 0;  // here: tokens of the tile that there are; none behind the last round

  __device__ UnionPlace(const Params& p, int tokens, int round_in) : round(round_in) {
    const uint32_t groups = static_cast<uint32_t>(p.G), heads = static_cast<uint32_t>(p.B) * groups;
    const uint32_t L = static_cast<uint32_t>(p.L), width = static_cast<uint32_t>(tokens), tiles = static_cast<uint32_t>(p.union_tiles);
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
#endif

}  // namespace cairn::hsa_cuda
