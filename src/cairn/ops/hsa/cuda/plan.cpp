#include "cairn/ops/hsa/cuda/plan.h"

#include <algorithm>
#include <cmath>

namespace cairn::hsa_cuda {
namespace {

constexpr int64_t kMostShared = 219 * 1024;         // dynamic shared memory of a thread block: 227 KB less what the kernels take statically
constexpr int64_t kHalfShared = 106 * 1024;         // the same where two are to share a multiprocessor
constexpr int64_t kBlockBytes = int64_t{64} << 20;  // partial results of a block of the forward (measured on an H200, as are the next two)
constexpr int64_t kMostBlockBytes = int64_t{1} << 29;
constexpr int64_t kLittleBytes = int64_t{1} << 29;
constexpr int64_t kMostByLanes = 1;  // heads of a group whose rows come by lanes (measured on an H200)
constexpr int64_t kMostRunBytes = int64_t{1} << 30;
constexpr int64_t kMost32 = (int64_t{1} << 31) - 1;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether <g, o_k> of the heads that share a weight lie in several warps of the backward.
bool dots_in_ring(const Params& p) {
  const int64_t R = p.H / p.G;
  const bool in_a_warp = R <= 16 && (R & (R - 1)) == 0 && (p.Hw == p.G || p.G == 1);
  return p.Hw != p.H && !in_a_warp;
}
int64_t key_blocks_of(const Params& p) { return ceil_div(p.S, kKeyBlock); }

}  // namespace

namespace {

// Two thread blocks of the forward (three of small ones) and of the backward should share a multiprocessor where they can.
SharedPlan shared_plan(int64_t chunk, int64_t rest) {
  for (int slots = 2; slots > 0; --slots) {
    const int64_t bytes = 1024 + slots * chunk + rest;
    const bool crowded = slots == 2 && bytes > kHalfShared && 1024 + chunk + rest <= kHalfShared;
    if (!crowded && bytes <= kMostShared) return {bytes, slots};
  }
  return {};
}
int64_t panels_of(int64_t D) { return ceil_div(D, 64) * kTileRows * 128; }

}  // namespace

SharedPlan forward_shared(int64_t D, int64_t S) {
  return shared_plan(2 * ceil_div(S, kKeyBlock) * panels_of(D), forward_stages(D) * panels_of(D));
}

SharedPlan backward_shared(int64_t D, int64_t S) {
  return shared_plan(2 * ceil_div(S, kKeyBlock) * panels_of(D), backward_stages(D) * 2 * panels_of(D) + 2 * kTileRows * 128);
}

bool plan_possible(const Params& p, bool backward) {
  if (p.D != 32 && p.D != 64 && p.D != 96 && p.D != 128) return false;
  if (p.H / p.G > kTileRows || p.S < 1) return false;
  if ((backward ? backward_shared(p.D, p.S) : forward_shared(p.D, p.S)).chunk_slots == 0) return false;
  return p.B * p.L * p.Gi * p.N * p.G <= kMost32 / 2 && kReduceRows * p.Gi * p.N <= kMostReduceSlots && p.B * p.Gi * p.C < kMost32 / 2 &&
         p.C * p.S <= kMost32 && p.L <= kMost32;
}

namespace {
bool few_rows(const Params& p) {
  constexpr int64_t kFewPairs = 8192;  // tiles of 16 heads; measured on an H200
  const int64_t pairs = p.B * p.L * p.N * p.G * ceil_div(p.H / p.G, 16);
  return pairs < kFewPairs || p.L * p.N * 2 < p.C;
}
}  // namespace

Order forward_order(Params* p) {
  const int64_t tokens = union_tokens(p->D, p->R), strips = union_strips(p->D), warps = strips / union_strips_a_warp(p->D);
  const int64_t queries = strips * 16 * 128 * ceil_div(p->D, 64), visits = warps * (union_most_visits(p->D, p->R, p->N) + 1);
  // Of each token twice N + 1 entries and N fetches, once N chunks as they come; twice the visits; tables of strips and chunks.
  const int64_t rest =
      1024 + queries + tokens * (2 * (p->N + 1) * 16 + 2 * p->N * 8 + p->N * 8) + 2 * visits * 4 + (strips + kFewChunks) * 4;
  const int64_t stage = 2 * panels_of(p->D), stages = std::min<int64_t>((kMostShared - rest) / stage, kMostUnionStages);
  const int64_t tiles = ceil_div(p->L, tokens);
  if (p->S > kKeyBlock || p->R < kUnionHeads || stages < kLeastUnionStages || tokens * p->N > 65535 || tiles * p->B * p->G > kMost32)
    return few_rows(*p) ? Order::kRow : Order::kChunk;
  p->union_stages = static_cast<int32_t>(stages), p->union_bytes = static_cast<int32_t>(rest + stages * stage);
  p->union_tiles = static_cast<int32_t>(tiles), p->box_keys = static_cast<int32_t>(p->S);
  if (few_rows(*p)) return Order::kRow;
  // Measured on an H200: faster, or at most 1 % slower, at any length whose keys and values find room in the L2 cache more often than not.
  if (p->D % 64 == 0 && p->R >= 16 && p->B * p->G * p->C * p->S * p->D <= kUnionNumbers) return Order::kUnion;
  // Tokens that choose at random: half of a sequence's chunks are visible to one on average.
  const double visible = std::max(0.5 * static_cast<double>(p->C), 1.0), chosen = std::min(1.0, static_cast<double>(p->N) / visible);
  const double different = visible * (1 - std::pow(1 - chosen, static_cast<double>(tokens)));
  return chosen * visible * static_cast<double>(tokens) >= kUnionSharing * different ? Order::kUnion : Order::kAsk;
}

Workspace plan(Params* p, bool backward, bool ordered, int processors) {
  const int64_t rows = p->B * p->L, R = p->H / p->G, tile_pairs = kTileRows / R, key_blocks = key_blocks_of(*p);
  p->R = static_cast<int32_t>(R), p->inverse_R = static_cast<uint32_t>(65536 / R + (R > 1 ? 1 : 0));
  const int64_t row_bytes = p->H * p->N * p->D * 2 * (backward ? key_blocks : 1);  // partial results of a row of queries

  // Little work is two blocks that are summed at the end. Otherwise a block is as small as it can be with enough items that waiting for its
  // last ones costs nothing, and large enough that a chunk finds some tiles' worth of pairs in it: half of a sequence's chunks are visible
  // to a row on average, and a run that is short pays for its keys and values alone (in the backward, for its sums).
  const bool little = rows * row_bytes <= kLittleBytes;
  const int64_t wanted_pairs = std::max<int64_t>((backward ? 512 : 256) / R, 4);
  const int64_t for_runs = ceil_div(wanted_pairs * std::max<int64_t>(p->C, 2) / 2, std::max<int64_t>(p->N, 1));
  int64_t block_rows = std::max((backward ? 2 : 1) * kBlockBytes / row_bytes, for_runs);
  block_rows = std::min(block_rows, std::max<int64_t>(kMostBlockBytes / row_bytes, 1));
  if (little) block_rows = ceil_div(rows, 2);
  // Keys are 32 bits wide.
  const int64_t keys_of_a_block = p->B * p->Gi * p->C + 1;
  block_rows = std::max(block_rows, ceil_div(rows, std::max<int64_t>((int64_t{1} << 32) / keys_of_a_block - 1, 1)));
  block_rows = std::clamp<int64_t>(ceil_div(block_rows, kReduceRows) * kReduceRows, 1, std::max<int64_t>(rows, 1));
  p->block_rows = block_rows;
  p->blocks = ceil_div(rows, block_rows);
  p->delay = static_cast<int32_t>(std::clamp<int64_t>(2, 1, std::max<int64_t>(p->blocks, 1)));
  p->ring = static_cast<int32_t>(std::min<int64_t>(std::max(4, p->delay + 1), std::max<int64_t>(p->blocks, 1)));

  const SharedPlan shared = backward ? backward_shared(p->D, p->S) : forward_shared(p->D, p->S);
  p->chunk_slots = shared.chunk_slots, p->key_blocks = static_cast<int32_t>(key_blocks),
  p->shared_bytes = static_cast<int32_t>(shared.bytes);
  p->tiles_at = static_cast<int32_t>(shared.chunk_slots * 2 * key_blocks * panels_of(p->D));
  p->own_blocks = static_cast<int32_t>(backward ? key_blocks : 1);
  p->fan = static_cast<int32_t>(p->Gi == 1 ? p->G : 1) * p->own_blocks;
  p->by_lanes = R <= kMostByLanes && (R & (R - 1)) == 0;
  p->box_keys = static_cast<int32_t>(p->S);
  if (p->S > kKeyBlock) {
    for (p->box_keys = kKeyBlock; p->S % p->box_keys != 0;) p->box_keys /= 2;
  }
  const int64_t block_pairs = block_rows * p->Gi * p->N, all_pairs = rows * p->Gi * p->N;
  int64_t item_pairs = (backward ? 2048 : 512) / R;
  const int64_t most = item_pairs;
  while (item_pairs > 2 * tile_pairs && all_pairs * p->fan / item_pairs < processors * 12) item_pairs /= 2;
  item_pairs = std::clamp<int64_t>(item_pairs, tile_pairs, kMostItemPairs) / tile_pairs * tile_pairs;
  const int64_t keys = p->B * p->Gi * p->C;
  const int64_t run_bytes = p->blocks * (ceil_div(block_pairs, item_pairs) + keys) * p->fan * 2 * kKeyBlock * p->D * 4;
  const bool runs = ordered && run_bytes <= kMostRunBytes, turns = ordered && !runs;
  // No small items where they take turns: they would wait longer for each other than they gain.
  if (turns) item_pairs = std::clamp<int64_t>(most, tile_pairs, kWindowPairs) / tile_pairs * tile_pairs;
  p->item_pairs = static_cast<int32_t>(item_pairs);
  p->main_items = static_cast<uint32_t>(ceil_div(block_pairs, p->item_pairs) * p->fan);
  p->reduce_items = static_cast<uint32_t>(ceil_div(block_rows, kReduceRows));
  p->reduce_every = p->main_items / p->reduce_items + 1;

  Workspace w;
  w.partial_bytes = p->ring * block_rows * row_bytes;
  w.dot_bytes = backward && dots_in_ring(*p) ? p->ring * block_rows * p->N * p->H * 4 : 0;
  w.starts = ordered ? p->blocks * (keys + 1) : 0, w.before = turns ? p->blocks * keys * kCopies : 0;
  w.run_bytes = runs ? run_bytes : 0, w.copies = turns ? kCopies : runs ? 0 : 1;
  w.counter_bytes = 8 + 2 * p->blocks * 4 + (turns ? p->B * p->G * p->C * key_blocks * kCopies * 4 : 0);
  return w;
}

void set_counters(Params* p, void* counters, bool with_turns) {
  char* at = static_cast<char*>(counters);
  p->ticket = reinterpret_cast<unsigned int*>(at);
  p->main_done = reinterpret_cast<unsigned int*>(at + 8);
  p->reduce_done = p->main_done + p->blocks;
  p->turn = with_turns ? p->reduce_done + p->blocks : nullptr;
}

}  // namespace cairn::hsa_cuda
