// What a launch of the memory-attention kernels needs, as plain data: raw device pointers, 64-bit strides in elements. No CUDA header and
// no torch header here. Letters as in ops/hsa/hsa.h; R = H / G query heads of a group.
//
// Words used by all files of this folder:
//   pair    one (row of queries, slot) of the index tensor; number ((b L + t) Gi + gi) N + n, below 2^31
//   block   the pairs of `block_rows` neighbouring rows; inside a block the pairs are sorted by chunk
//   item    `item_pairs` neighbouring pairs of a sorted block: what one thread block works on at a time
//   run     the pairs of an item that share a chunk; its keys and values are fetched once
//   tile    up to 64 / R pairs of a run, R rows each: the 64 rows of one matrix instruction
//   ring    partial results of the last few blocks, which fit the L2 cache; read back and summed over slots by "reduce" items
#pragma once

#include <cstdint>

namespace cairn::hsa_cuda {

constexpr int kThreads = 128;  // that compute: one warp group; a fifth warp fetches
constexpr int kBlockThreads = kThreads + 32;
constexpr int kTileRows = 64;           // rows of a tile
constexpr int kKeyBlock = 64;           // keys of a chunk that one matrix instruction takes
constexpr int kWindowPairs = 128;       // pairs of an item that its producer looks at together
constexpr int kMostItemPairs = 1024;    // pairs of an item; where items take turns kWindowPairs
constexpr int kCopies = 8;              // of dk and dv where additions have an order
constexpr int kReduceRows = 4;          // rows of queries that one reduce item sums
constexpr int kMostReduceSlots = 4096;  // slots of the index tensor in a reduce item: kReduceRows Gi N

// bf16 rows of D numbers, the last dimension contiguous; base and strides multiples of 8 elements (16 bytes).
struct Rows {
  const void* data = nullptr;
  int64_t batch = 0, token = 0, head = 0;  // strides
};

struct Params {
  Rows q, k, v, grad_o;             // q, grad_o [B,L,H,D]; k, v [B,M,G,D]
  const int64_t* index = nullptr;   // [B,L,Gi,N] contiguous; numbers outside 0 .. C-1 are unused slots
  const void* weight = nullptr;     // [B,L,Hw,N] contiguous, fp32 or bf16
  const float* grad_lse = nullptr;  // [B,L,H,N] contiguous or null
  bool weight_bf16 = false, off_by_one = false;
  float dot_share = 1;  // of w <g, o_k> in dS: less where weights follow the chunks' masses (exact_mass.h)

  void* o = nullptr;        // [B,L,H,D] bf16 contiguous: o, in the backward dq
  float* lse = nullptr;     // [B,L,H,N] fp32 or null; unused slots are not written
  void* dweight = nullptr;  // [B,L,Hw,N] in the dtype of weight; zeroed before
  float* dk = nullptr;      // [B,G,C*S,D] fp32, columns in fragment order (see fragment_column); zeroed before
  float* dv = nullptr;      // the same

  int64_t B = 0, L = 0, H = 0, G = 0, D = 0, S = 0, C = 0, N = 0, Gi = 1, Hw = 1;
  int32_t R = 1;               // H / G
  uint32_t inverse_R = 65536;  // floor(65536 / R) + 1: x inverse_R >> 16 is x / R for x < 64 (x for R = 1)
  float scale = 1;             // 1 / sqrt(D)

  // The inverted selection: for each block its pairs by ascending key. key = block * (B Gi C + 1) + (b Gi + gi) C + chunk; unused slots
  // have the block's last key.
  const uint32_t* keys = nullptr;
  const uint32_t* pairs = nullptr;

  // The order of work. Step j hands out the main items of block j and, spread among them, the reduce items of block j - delay; the last
  // steps hand out the remaining reduce items. Tickets are taken in this order and wait only for earlier ones, so the grid cannot lock up
  // however few of its thread blocks run at a time.
  int64_t block_rows = 0, blocks = 0;
  int32_t item_pairs = 0;
  int32_t ring = 2;        // blocks whose partial results are kept; more than delay where blocks > ring
  int32_t delay = 1;       // at most blocks
  int32_t fan = 1;         // main items of one slice of pairs: K/V groups that share it, times own_blocks
  int32_t own_blocks = 1;  // in the backward: pieces of 64 keys of a chunk
  int32_t box_keys = 64;   // keys that one copy fetches
  // Rows of q and grad_o come by 16 bytes a lane rather than by one copy a pair: where R is small, and a power of two, the copy engine
  // would be the limit.
  bool by_lanes = false;
  // Dynamic shared memory: [chunk_slots][k, v][key_blocks][panel], from tiles_at on [stage][tensor][panel].
  int32_t chunk_slots = 1, key_blocks = 1, tiles_at = 0, shared_bytes = 0;
  uint32_t reduce_every = 1;                  // main_items / reduce_items + 1
  uint32_t main_items = 0, reduce_items = 0;  // of each block; all tickets together stay below 2^31
  void* partial = nullptr;                    // [ring][block pairs * key blocks][H/Gi][D] bf16, columns in fragment order
  float* partial_dot = nullptr;               // [ring][block pairs][H/Gi] fp32: <g, o_k>; null where dweight needs no sum over warps
  unsigned int* ticket = nullptr;             // zero at launch; so are the next three
  unsigned int* main_done = nullptr;          // [blocks] finished main items
  unsigned int* reduce_done = nullptr;        // [blocks]

  // The forward in union order (union_forward.cuh). in_union_order: what launch_sharing found, 1 or 0: the kernels of the other order then
  // end at once. Null: it was not asked.
  const int* in_union_order = nullptr;
  int32_t union_stages = 0, union_bytes = 0;  // chunks fetched ahead; dynamic shared memory
  int32_t union_tiles = 0;                    // of a sequence: thread blocks' tokens

  // dk and dv in a fixed order of additions; all null where it is free.
  const unsigned int* starts = nullptr;  // [blocks][B Gi C + 1] place of the chunk's first pair in the block's sorted list, then their end
  // Where memory allows each run keeps its sums to itself: that of (slice, key) is number slice + key of its block, since both only grow
  // along the list; launch_finish_keys adds them up. dk and dv are null then.
  float* runs = nullptr;  // [blocks][slices + B Gi C][fan][dk, dv][64][D]
  // Otherwise the item of slice i of a block adds to copy i mod kCopies of the sums, and to each copy of a chunk's sums the items add one
  // after the other.
  unsigned int* turn = nullptr;          // [B G C][key_blocks][kCopies] pairs added so far; zero at launch
  const unsigned int* before = nullptr;  // [blocks][B Gi C][kCopies] pairs of the chunk in earlier blocks
  int64_t copy_step = 0;                 // numbers of dk (and of dv) from copy to copy
};

// Dynamic shared memory of a launch.
struct SharedPlan {
  int64_t bytes = 0;
  int chunk_slots = 0;  // chunks fetched at a time: 2 where they fit, else 1; 0: not even one fits
};
SharedPlan forward_shared(int64_t D, int64_t S);
SharedPlan backward_shared(int64_t D, int64_t S);
// Of the forward in union order: strips (of 16 rows) of a thread block and of a warp, tokens of a thread block; the most chunks fetched
// ahead; the fewest heads of a group, since the tokens of a strip share its products, and how many tokens of a thread block have to share a
// chunk on average (both measured on an H200).
constexpr int union_strips(int64_t D) { return D <= 64 ? 16 : 8; }
constexpr int union_strips_a_warp(int64_t D) { return D <= 64 ? 2 : 1; }
constexpr int union_tokens(int64_t D, int64_t R) {
  return static_cast<int>(R < 16 ? union_strips(D) * (16 / R) : union_strips(D) / ((R + 15) / 16));
}
constexpr int kLeastUnionStages = 4, kMostUnionStages = 11;
constexpr int kFewChunks = 256;  // of a sequence: so few that a table has all of them
// Of a warp in a tile: chunks of its own, and a stage for every kLeastUnionStages of all chunks of the thread block.
constexpr int union_most_visits(int64_t D, int64_t R, int64_t N) {
  const int64_t own = union_strips_a_warp(D) * (R < 16 ? 16 / R : 1) * N;
  return static_cast<int>(own + union_tokens(D, R) * N / kLeastUnionStages + 1);
}
constexpr int kUnionHeads = 8;
constexpr int64_t kUnionNumbers =
    262144 * 64;  // of all keys: up to so many, with 16 heads a group and widths 64 and 128, it is taken unasked
constexpr float kUnionSharing = 1.8f;

// Tiles fetched ahead.
constexpr int forward_stages(int64_t D) { return D <= 64 ? 2 : 3; }
constexpr int backward_stages(int64_t D) { return D <= 64 ? 3 : 2; }

}  // namespace cairn::hsa_cuda
