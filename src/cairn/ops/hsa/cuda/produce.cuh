// The producer: one warp that takes tickets until there are none, and fetches what the consumers need for them.
#pragma once

#include "cairn/ops/hsa/cuda/tile.cuh"

namespace cairn::hsa_cuda {

#if CAIRN_HAS_WGMMA
template <int kD, int kStages, int kTensors>  // tensors of a tile: q, then grad_o
class Producer {
  static constexpr int kPanels = (kD + 63) / 64, kBlockBytes = kPanels * kPanelBytes;

 public:
  __device__ Producer(const Params& p_in, const Maps& maps_in, Shared<kStages>& shared_in, uint32_t base_in)
      : p(p_in), maps(maps_in), shared(shared_in), base(base_in) {}

  __device__ void run() {
    uint32_t next = take();
    for (;;) {
      const Ticket ticket = ticket_of(p, __shfl_sync(0xffffffff, next, 0));
      if (ticket.last) break;
      next = take();  // arrives while this one is worked on
      if (ticket.block < 0) continue;
      if (ticket.main) {
        fetch_item(ticket);
      } else {
        fetch_partial(ticket);
      }
    }
    wait_empty();
    if (lane_here() == 0) shared.stage[s].kind = Kind::kLast;
    publish(0);
  }

 private:
  static __device__ int lane_here() { return thread_here() % 32; }
  __device__ uint32_t take() { return lane_here() == 0 ? atomicAdd(p.ticket, 1u) : 0; }
  __device__ void wait_empty() { barrier_wait(shared_address(&shared.empty[s]), phase ^ 1); }
  __device__ void publish(uint32_t bytes) {
    __syncwarp();
    if (lane_here() == 0) barrier_expect(shared_address(&shared.full[s]), bytes);
    if (++s == kStages) s = 0, phase ^= 1;
  }

  __device__ void fetch_item(const Ticket& ticket) {
    const int lane = lane_here();
    const uint32_t pairs_a_row = static_cast<uint32_t>(p.Gi * p.N), unused = static_cast<uint32_t>(p.B * p.Gi * p.C);
    const uint32_t slice = ticket.number / static_cast<uint32_t>(p.fan), part = ticket.number - slice * static_cast<uint32_t>(p.fan);
    // The item's pairs; unused slots are the last of their block.
    const int64_t block_pairs = p.block_rows * pairs_a_row, first = ticket.block * block_pairs + static_cast<int64_t>(slice) * p.item_pairs;
    const int64_t end = min(min((ticket.block + 1) * block_pairs, p.B * p.L * pairs_a_row), first + p.item_pairs);
    const uint32_t first_key = static_cast<uint32_t>(ticket.block) * (unused + 1);
    uint32_t last_key = unused;
    int count = 0;
#pragma unroll 1
    for (int i = 0; 32 * i < p.item_pairs; ++i) {
      const int e = lane + 32 * i;
      uint32_t key = unused, pair = 0;
      if (first + e < end) key = p.keys[first + e] - first_key, pair = p.pairs[first + e];
      const uint32_t below = __shfl_up_sync(0xffffffff, key, 1), previous = lane == 0 ? last_key : below;
      last_key = __shfl_sync(0xffffffff, key, 31);
      if (key < unused) {
        const uint32_t row = pair / pairs_a_row, b = row / static_cast<uint32_t>(p.L), selection = key / static_cast<uint32_t>(p.C);
        shared.item.pair[e] = pair, shared.item.token[e] = row - b * static_cast<uint32_t>(p.L), shared.item.b[e] = b;
        shared.item.chunk[e] = key - selection * static_cast<uint32_t>(p.C);
        shared.item.g[e] = p.Gi == 1 ? part / static_cast<uint32_t>(p.own_blocks) : selection - b * static_cast<uint32_t>(p.Gi);
      }
      const uint32_t starts = __ballot_sync(0xffffffff, key < unused && key != previous);
      if (lane == 0) shared.item.starts[i] = starts;
      count += __popc(__ballot_sync(0xffffffff, key < unused));
    }
    if (ticket.block - p.ring > reduced) {  // the ring's place is free once its last block has been summed
      reduced = ticket.block - p.ring;
      if (lane == 0) wait_for(p.reduce_done + reduced, p.reduce_items);
    }
    __syncwarp();
    if (count == 0) {
      if (lane == 0) add_release(p.main_done + ticket.block, 1);
      return;
    }
    // What is the same for all tiles waits in shared memory, not in registers, of which this warp has few.
    if (lane == 0) {
      const uint32_t ring_pair = static_cast<uint32_t>(p.H / p.Gi) * static_cast<uint32_t>(p.own_blocks);
      shared.item.block = ticket.block, shared.item.own = static_cast<int>(part % static_cast<uint32_t>(p.own_blocks));
      shared.item.first_pair = static_cast<uint32_t>(ticket.block * block_pairs), shared.item.ring_pair = ring_pair;
      shared.item.place = static_cast<uint32_t>(first), shared.item.ring_row = ticket.block % p.ring * block_pairs * ring_pair;
    }
    __syncwarp();
    fetch_tiles(count);
  }

  // Runs in their order, or backwards where they add to dk and dv in turn: the last run, whose chunk the next item goes on with, is then
  // done first, and the first run, which waits for the item before, last. Otherwise every item would wait for the one before it to end.
  __device__ void fetch_tiles(int count) {
    const int R = p.R, tile_pairs = kTileRows / R;
    const bool backwards = kTensors == 2 && p.turn != nullptr;
    int begin = 0, end = 0, left = count;
    while (left > 0) {
      if (backwards) {
        end = left, begin = run_begin(shared.item.starts, left - 1);
      } else {
        begin = end, end = run_end(shared.item.starts, begin, count);
      }
      left -= end - begin;
      const int b = static_cast<int>(shared.item.b[begin]), g = static_cast<int>(shared.item.g[begin]);
      const int chunk = static_cast<int>(shared.item.chunk[begin]);
      for (int e = begin; e < end; e += tile_pairs) {
        wait_empty();
        uint32_t bytes = e == begin ? fetch_chunk(b, g, chunk) : 0;
        const int pairs = min(tile_pairs, end - e);
        bytes += fetch_rows(e, pairs, g * R, b, R);
        if (lane_here() == 0) {
          Stage& stage = shared.stage[s];
          stage.kind = Kind::kTile, stage.count = pairs, stage.g = g, stage.own = shared.item.own, stage.chunk_slot = chunk_slot;
          stage.run_ends = e + pairs == end, stage.item_ends = e + pairs == end && left == 0;
          stage.block = shared.item.block;
          if (kTensors == 2) {
            stage.key = static_cast<uint32_t>((b * p.Gi + (p.Gi == 1 ? 0 : g)) * p.C + chunk);
            stage.run_place = shared.item.place + static_cast<uint32_t>(begin), stage.run_pairs = static_cast<uint32_t>(end - begin);
          }
        }
        publish(bytes);
      }
    }
  }

  // The keys and values of a chunk, into the next chunk slot.
  __device__ uint32_t fetch_chunk(int b, int g, int chunk) {
    if (++chunk_slot >= p.chunk_slots) chunk_slot = 0, chunk_phase ^= 1;
    barrier_wait(shared_address(&shared.chunk_empty[chunk_slot]), chunk_phase ^ 1);
    const int lane = lane_here(), chunk_bytes = p.key_blocks * kBlockBytes, S = static_cast<int>(p.S);
    const uint32_t to = base + static_cast<uint32_t>(chunk_slot * 2 * chunk_bytes), full = shared_address(&shared.full[s]);
    if (lane < 2 * kPanels) {
      const int tensor = lane % 2, panel = lane / 2;
      for (int row = 0; row < S; row += p.box_keys) {
        copy_box(to + static_cast<uint32_t>(tensor * chunk_bytes + row / 64 * kBlockBytes + panel * kPanelBytes + row % 64 * 128),
                 tensor == 0 ? &maps.k : &maps.v, full, panel * 64, g, chunk * S + row, b);
      }
    }
    return static_cast<uint32_t>(2 * S * kPanels * 128);
  }

  // The rows of pairs e .. e + pairs - 1 of the item, and who they are.
  __device__ uint32_t fetch_rows(int e, int pairs, int head, int b, int R) {
    Stage& stage = shared.stage[s];
    const uint32_t to = base + static_cast<uint32_t>(p.tiles_at) + static_cast<uint32_t>(s * kTensors * kBlockBytes),
                   full = shared_address(&shared.full[s]);
#pragma unroll 1
    for (int i = lane_here(); i < pairs; i += 32) {
      const int token = static_cast<int>(shared.item.token[e + i]);
#pragma unroll
      for (int tensor = 0; tensor < kTensors; ++tensor) {
#pragma unroll
        for (int panel = 0; panel < kPanels; ++panel) {
          copy_box(to + static_cast<uint32_t>(tensor * kBlockBytes + panel * kPanelBytes + i * R * 128),
                   tensor == 0 ? &maps.q : &maps.grad_o, full, panel * 64, head, token, b);
        }
      }
    }
#pragma unroll 1
    for (int i = lane_here(); i < pairs; i += 32) place_pair(e + i, head, stage.pair[i]);
    return static_cast<uint32_t>(pairs * R * kTensors * kPanels * 128);
  }

  __device__ void place_pair(int e, int head, PairPlace& to) {
    const uint32_t pair = shared.item.pair[e], row = shared.item.b[e] * static_cast<uint32_t>(p.L) + shared.item.token[e];
    const uint32_t row_pair = (row * static_cast<uint32_t>(p.Gi) + (p.Gi == 1 ? 0 : shared.item.g[e])) * static_cast<uint32_t>(p.N);
    const int64_t slot = pair - row_pair, in_block = pair - shared.item.first_pair;
    const uint32_t heads = static_cast<uint32_t>(p.H / p.Gi), in_pair = p.Gi == 1 ? static_cast<uint32_t>(head) : 0;
    const int hw = p.Hw == p.H ? head : p.Hw == 1 ? 0 : static_cast<int>(shared.item.g[e]);
    to.weight = (row * p.Hw + hw) * p.N + slot;
    to.ring = shared.item.ring_row + in_block * shared.item.ring_pair + static_cast<uint32_t>(shared.item.own) * heads + in_pair;
    if (p.lse != nullptr || p.grad_lse != nullptr) to.lse = (row * p.H + head) * p.N + slot;
    if (p.partial_dot != nullptr) to.dot = (shared.item.ring_row / p.own_blocks) + in_block * heads + in_pair;
  }

  // Partial results of a few rows of queries: for each row, index head and up to 64 heads, those of the used slots, as many at a time as a
  // stage holds.
  __device__ void fetch_partial(const Ticket& ticket) {
    const int lane = lane_here();
    const int64_t row0 = ticket.block * p.block_rows + static_cast<int64_t>(ticket.number) * kReduceRows;
    const int64_t row_end = min(min((ticket.block + 1) * p.block_rows, row0 + kReduceRows), p.B * p.L);
    const int N = static_cast<int>(p.N), Gi = static_cast<int>(p.Gi), Hi = static_cast<int>(p.H / p.Gi),
              rows = max(static_cast<int>(row_end - row0), 0);
    bool all_used = true;
    for (int word = 0; word * 32 < rows * Gi * N; ++word) {
      const int at_slot = word * 32 + lane;
      bool used = false;
      if (at_slot < rows * Gi * N) {
        const int64_t chunk = p.index[row0 * Gi * N + at_slot];
        used = chunk >= 0 && chunk < p.C;
      }
      const uint32_t bits = __ballot_sync(0xffffffff, used);
      if (lane == 0) shared.used[word] = bits;
      all_used = all_used && __all_sync(0xffffffff, used || at_slot >= rows * Gi * N);
    }
    if (ticket.block > done) {
      done = ticket.block;
      if (lane == 0) wait_for(p.main_done + done, p.main_items);
    }
    __syncwarp();
    fence_global_for_copies();
    const char* ring = static_cast<const char*>(p.partial) + ticket.block % p.ring * p.block_rows * Gi * N * p.own_blocks * Hi * (kD * 2);
    for (int at_row = 0; at_row < rows * Gi; ++at_row) {
      for (int head = 0; head < Hi; head += kTileRows) {
        const int heads = min(kTileRows, Hi - head), most = kTensors * kBlockBytes / (heads * kD * 2);
        const int64_t row = row0 + (Gi == 1 ? at_row : at_row / Gi), gi = Gi == 1 ? 0 : at_row % Gi;
        const char* from = ring + (((row0 - ticket.block * p.block_rows) * Gi + at_row) * N * p.own_blocks * Hi + head) * (kD * 2);
        int slot = 0;
        bool ends = false;
        while (!ends) {
          wait_empty();
          const uint32_t to = base + static_cast<uint32_t>(p.tiles_at) + static_cast<uint32_t>(s * kTensors * kBlockBytes),
                         full = shared_address(&shared.full[s]);
          int count = 0;
          if (all_used && heads == Hi) {  // they lie side by side
            count = min(most, N * p.own_blocks - slot);
            if (lane == 0) copy_bytes(to, from + static_cast<int64_t>(slot) * Hi * (kD * 2), count * heads * kD * 2, full);
            slot += count;
          }
          for (; !(all_used && heads == Hi) && slot < N * p.own_blocks && count < most; ++slot) {
            const int bit = at_row * N + (p.own_blocks == 1 ? slot : slot / p.own_blocks);
            if ((shared.used[bit / 32] >> bit % 32 & 1) == 0) continue;
            if (lane == 0)
              copy_bytes(to + static_cast<uint32_t>(count * heads * kD * 2), from + static_cast<int64_t>(slot) * Hi * (kD * 2),
                         heads * kD * 2, full);
            ++count;
          }
          ends = slot == N * p.own_blocks;
          if (lane == 0) {
            Stage& stage = shared.stage[s];
            stage.kind = Kind::kReduce, stage.count = count, stage.block = ticket.block, stage.number = ticket.number;
            stage.sum_row = row * p.H + gi * Hi + head, stage.sum_heads = heads, stage.sum_ends = ends;
            stage.item_ends = ends && at_row == rows * Gi - 1 && head + heads == Hi;
          }
          publish(static_cast<uint32_t>(count * heads * kD * 2));
        }
      }
    }
    if (rows == 0 && lane == 0) add_release(p.reduce_done + ticket.block, 1);
  }

  const Params& p;
  const Maps& maps;
  Shared<kStages>& shared;
  const uint32_t base;         // of dynamic shared memory
  int s = 0, chunk_slot = -1;  // stage to fill next; chunk slot filled last
  uint32_t phase = 0, chunk_phase = 0;
  int reduced = -1, done = -1;  // blocks known to be summed, to have all partial results
};

// Sets up barriers and zeroes the dynamic shared memory (rows that no copy writes must hold numbers); all threads of the block call this.
template <int kStages>
__device__ inline void prepare(Shared<kStages>& shared, uint32_t from, int bytes) {
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(shared_address(&shared.full[i]), 1);
      barrier_init(shared_address(&shared.empty[i]), kThreads / 32);
    }
    for (int i = 0; i < 2; ++i) barrier_init(shared_address(&shared.chunk_empty[i]), kThreads / 32);
    barrier_init_done();
  }
  for (int i = static_cast<int>(threadIdx.x) * 16; i < bytes; i += static_cast<int>(blockDim.x) * 16) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};\n" ::"r"(from + static_cast<uint32_t>(i)), "r"(0) : "memory");
  }
  fence_shared_for_matrix();
  __syncthreads();
}

// One arrival a warp, after all its threads.
__device__ inline void release(uint64_t& barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(shared_address(&barrier));
}

// The consumers' place in the row of stages.
template <int kStages>
struct Cursor {
  Shared<kStages>& shared;
  int s = 0;
  uint32_t phase = 0;
  __device__ const Stage& wait() {
    barrier_wait(shared_address(&shared.full[s]), phase);
    return shared.stage[s];
  }
  __device__ void advance() {  // frees the stage
    release(shared.empty[s]);
    if (++s == kStages) s = 0, phase ^= 1;
  }
};
#endif  // CAIRN_HAS_WGMMA

}  // namespace cairn::hsa_cuda
