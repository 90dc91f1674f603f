// The producer: one warp that takes tickets until there are none, and fetches what the consumers need for them. In the backward it leaves
// the rows of a tile to helpers, a warp a stage.
#pragma once

#include "cairn/ops/hsa/cuda/tile.cuh"

namespace cairn::hsa_cuda {

#if CAIRN_HAS_WGMMA
// One thread of a warp arrives at a barrier for all of them, after __syncwarp(). compute-sanitizer's racecheck does not follow that and
// reports every handing over of a stage; with CAIRN_RACECHECK defined every thread arrives itself, and it finds nothing.
#if defined(CAIRN_RACECHECK)
constexpr int kArrivals = 32;
#else
constexpr int kArrivals = 1;  // of a warp
#endif

template <int kD, int kStages, int kTensors>  // tensors of a tile: q, then grad_o
class Producer {
  static constexpr int kPanels = (kD + 63) / 64, kBlockBytes = kPanels * kPanelBytes;
  static constexpr bool kHelpers = kTensors == 2;
  using SharedHere = Shared<kStages, kTensors>;
  static constexpr int kWindow = SharedHere::kWindow;

 public:
  __device__ Producer(const Params& p_in, const Maps& maps_in, SharedHere& shared_in, uint32_t base_in)
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
    for (int i = 0; i < (kHelpers ? kStages : 1); ++i) {  // every helper hears it
      wait_empty();
      if (lane_here() == 0) shared.stage[s].kind = Kind::kLast;
      publish(0);
    }
  }

  // The rows of each tile that comes to stage `own`.
  __device__ void help(int own) {
    s = own;
    for (uint32_t turn = 0;; turn ^= 1) {
      barrier_wait_idly(shared_address(&shared.ready[s]), turn);
      const Kind kind = shared.stage[s].kind;
      const uint32_t bytes = kind == Kind::kTile ? fetch_rows(shared.stage[s]) : 0;
      if (p.by_lanes) arrive_after_copies(shared_address(&shared.full[s]));
      arrive_full(bytes);
      if (kind == Kind::kLast) break;
    }
  }

 private:
  static __device__ int lane_here() { return thread_here() % 32; }
  __device__ uint32_t take() { return lane_here() == 0 ? atomicAdd(p.ticket, 1u) : 0; }
  __device__ void wait_empty() {
    if (kHelpers) {
      barrier_wait_idly(shared_address(&shared.empty[s]), phase ^ 1);
    } else {
      barrier_wait(shared_address(&shared.empty[s]), phase ^ 1);
    }
  }
  __device__ void arrive_full(uint32_t bytes) {
    __syncwarp();
    if (lane_here() == 0) {
      barrier_expect(shared_address(&shared.full[s]), bytes);
    } else if (kArrivals > 1) {
      barrier_arrive(shared_address(&shared.full[s]));
    }
  }
  __device__ void publish(uint32_t bytes) {
    arrive_full(bytes);
    if (kHelpers && (kArrivals > 1 || lane_here() == 0)) barrier_arrive(shared_address(&shared.ready[s]));
    if (!kHelpers && p.by_lanes) arrive_after_copies(shared_address(&shared.full[s]));
    if (++s == kStages) s = 0, phase ^= 1;
  }

  __device__ void fetch_item(const Ticket& ticket) {
    const uint32_t pairs_a_row = static_cast<uint32_t>(p.Gi * p.N);
    const uint32_t slice = ticket.number / static_cast<uint32_t>(p.fan), part = ticket.number - slice * static_cast<uint32_t>(p.fan);
    const int64_t block_pairs = p.block_rows * pairs_a_row, end_of_block = min((ticket.block + 1) * block_pairs, p.B * p.L * pairs_a_row);
    int64_t at = ticket.block * block_pairs + static_cast<int64_t>(slice) * p.item_pairs;
    const int64_t end = min(end_of_block, at + p.item_pairs);
    int count = look(at, end, ticket.block);
    if (ticket.block - p.ring > reduced) {  // the ring's place is free once its last block has been summed
      reduced = ticket.block - p.ring;
      if (lane_here() == 0) wait_for(p.reduce_done + reduced, p.reduce_items);
    }
    __syncwarp();
    if (count == 0) {
      if (lane_here() == 0) add_release(p.main_done + ticket.block, 1);
      return;
    }
    // What is the same for all tiles waits in shared memory, not in registers, of which this warp has few.
    if (lane_here() == 0) {
      const uint32_t ring_pair = static_cast<uint32_t>(p.H / p.Gi) * static_cast<uint32_t>(p.own_blocks);
      shared.item.block = ticket.block, shared.item.own = static_cast<int>(part % static_cast<uint32_t>(p.own_blocks));
      shared.item.first_pair = static_cast<uint32_t>(ticket.block * block_pairs), shared.item.ring_pair = ring_pair;
      shared.item.slice = slice, shared.item.ring_row = ticket.block % p.ring * block_pairs * ring_pair;
    }
    __syncwarp();
    for (bool open = false;;) {
      const bool last = count < kWindow || at + kWindow >= end;
      const int fetched = fetch_tiles(count, last, static_cast<int>(part / static_cast<uint32_t>(p.own_blocks)), &open);
      if (last) break;
      at += fetched;
      __syncwarp();
      count = look(at, end, ticket.block);
    }
  }

  // Reads the sorted pairs from `at` on into the window, at most up to `end`; returns how many there are. Unused slots are the last of
  // their block.
  __device__ int look(int64_t at, int64_t end, int block) {
    const int lane = lane_here();
    const uint32_t pairs_a_row = static_cast<uint32_t>(p.Gi * p.N), unused = static_cast<uint32_t>(p.B * p.Gi * p.C);
    const uint32_t first_key = static_cast<uint32_t>(block) * (unused + 1);
    uint32_t last_key = unused, keys[kWindow / 32], pairs[kWindow / 32];
    int count = 0;
#pragma unroll
    for (int i = 0; i < kWindow / 32; ++i) {  // all of them on their way
      const int64_t e = at + 32 * i + lane;
      keys[i] = unused;
      if (e < end) keys[i] = p.keys[e] - first_key, pairs[i] = p.pairs[e];
    }
#pragma unroll
    for (int i = 0; i < kWindow / 32; ++i) {
      if (at + 32 * i >= end) break;
      const int e = lane + 32 * i;
      const uint32_t key = keys[i], below = __shfl_up_sync(0xffffffff, key, 1), previous = lane == 0 ? last_key : below;
      last_key = __shfl_sync(0xffffffff, key, 31);
      if (key < unused) {
        const uint32_t row = pairs[i] / pairs_a_row;
        shared.item.pair[e] = pairs[i], shared.item.token[e] = row % static_cast<uint32_t>(p.L), shared.item.key[e] = key;
      }
      const uint32_t starts = __ballot_sync(0xffffffff, key < unused && key != previous);
      if (lane == 0) shared.item.starts[i] = starts;
      count += __popc(__ballot_sync(0xffffffff, key < unused));
    }
    __syncwarp();
    return count;
  }

  // The tiles of the window's `count` pairs. last: the item ends with them; otherwise a tile that ends with them stays for the next window,
  // since it may grow or its run go on; returns how many pairs were fetched. open: the first pair goes on with a run whose chunk is here.
  //
  // Runs in their order, or backwards where they add to dk and dv in turn (such items have one window): the last run, whose chunk the next
  // item goes on with, is then done first, and the first run, which waits for the item before, last. Otherwise every item would wait for
  // the one before it to end.
  __device__ int fetch_tiles(int count, bool last, int group, bool* open) {
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
      const uint32_t key = shared.item.key[begin], selection = key / static_cast<uint32_t>(p.C);
      const int chunk = static_cast<int>(key - selection * static_cast<uint32_t>(p.C));
      const int b = static_cast<int>(p.Gi == 1 ? selection : selection / static_cast<uint32_t>(p.Gi));
      const int g = p.Gi == 1 ? group : static_cast<int>(selection) - b * static_cast<int>(p.Gi);
      for (int e = begin; e < end; e += tile_pairs) {
        const int pairs = min(tile_pairs, end - e);
        if (!last && e + pairs == count) return e;
        wait_empty();
        uint32_t bytes = *open ? 0 : fetch_chunk(b, g, chunk);
        *open = e + pairs != end;
        Stage<kTensors>& stage = shared.stage[s];
        if constexpr (kHelpers) {
          for (int i = lane_here(); i < pairs; i += 32) stage.pair[i] = shared.item.pair[e + i], stage.token[i] = shared.item.token[e + i];
        } else {
          bytes += fetch_rows(e, pairs, g, b, R);
        }
        if (lane_here() == 0) {
          stage.kind = Kind::kTile, stage.count = pairs, stage.b = b, stage.g = g;
          stage.own = shared.item.own, stage.chunk_slot = chunk_slot;
          stage.run_ends = e + pairs == end, stage.item_ends = last && e + pairs == end && left == 0;
          stage.block = shared.item.block;
          if constexpr (kHelpers) {
            stage.key = key;
            stage.slice = shared.item.slice, stage.run_pairs = static_cast<uint32_t>(end - begin);
            stage.first_pair = shared.item.first_pair;
            stage.ring_row = shared.item.ring_row + shared.item.own * (p.H / p.Gi) + (p.Gi == 1 ? g * R : 0);
          }
        }
        publish(bytes);
      }
    }
    return count;
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

  // The rows of pairs e .. e + pairs - 1 of the window, and who they are.
  __device__ uint32_t fetch_rows(int e, int pairs, int g, int b, int R) {
    const uint32_t bytes = copy_rows(shared.item.token + e, pairs, g * R, b, R);
#pragma unroll 1
    for (int i = lane_here(); i < pairs; i += 32) place_pair(e + i, g, b, shared.stage[s].pair[i]);
    return bytes;
  }

  // The same for a helper, row by row.
  __device__ uint32_t fetch_rows(Stage<2>& stage) {
    const int R = p.R, pairs = stage.count, b = stage.b, g = stage.g, head = g * R;
    const uint32_t first_pair = stage.first_pair, ring_pair = static_cast<uint32_t>(p.H / p.Gi) * static_cast<uint32_t>(p.own_blocks);
    uint32_t weight[2] = {};
    float grad_lse[2] = {};
    int64_t dot[2] = {};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int row = lane_here() + 32 * j, i = row_pair(row), h = row - i * R;
      if (i >= pairs) continue;
      const uint32_t pair = stage.pair[i], token_row = static_cast<uint32_t>(b) * static_cast<uint32_t>(p.L) + stage.token[i];
      const int64_t slot = pair - (token_row * static_cast<uint32_t>(p.Gi) + (p.Gi == 1 ? 0 : g)) * static_cast<uint32_t>(p.N);
      const int hw = p.Hw == p.H ? head + h : p.Hw == 1 ? 0 : g;
      dot[j] = (static_cast<int64_t>(token_row) * p.Hw + hw) * p.N + slot;
      weight[j] = load_weight(p, dot[j]);
      if (p.grad_lse != nullptr) grad_lse[j] = p.grad_lse[(static_cast<int64_t>(token_row) * p.H + head + h) * p.N + slot];
      const int64_t ring = stage.ring_row + static_cast<int64_t>(pair - first_pair) * ring_pair + h;
      stage.ring[row] = ring;
      // Without the pieces of own keys in it.
      if (p.partial_dot != nullptr) dot[j] = p.own_blocks == 1 ? ring : dot_place(stage, pair - first_pair, h);
    }
    const uint32_t bytes = copy_rows(stage.token, pairs, head, b, R);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int row = lane_here() + 32 * j;
      stage.weight_and_grad_lse[row] = make_float2(weight_of(p, weight[j]), grad_lse[j]);
      stage.dot[row] = dot[j];
    }
    return bytes;
  }
  __device__ int64_t dot_place(const Stage<2>& stage, uint32_t in_block, int h) const {
    const int64_t heads = p.H / p.Gi, in_pair = p.Gi == 1 ? stage.g * p.R : 0;
    const int64_t first = stage.block % p.ring * p.block_rows * p.Gi * p.N;  // pairs
    return (first + in_block) * heads + in_pair + h;
  }

  // The pair that a row of the tile belongs to: row / R.
  __device__ int row_pair(int row) const { return static_cast<int>(static_cast<uint32_t>(row) * p.inverse_R >> 16); }

  // Rows of the tokens' heads `head` .. `head` + R - 1, into the stage; returns the bytes that the barrier is to wait for.
  __device__ uint32_t copy_rows(const uint32_t* tokens, int pairs, int head, int b, int R) {
    const uint32_t to = base + static_cast<uint32_t>(p.tiles_at) + static_cast<uint32_t>(s * kTensors * kBlockBytes),
                   full = shared_address(&shared.full[s]);
    if (p.by_lanes) {
      copy_by_lanes(p.q, to, tokens, pairs, head, b, R);
      if (kTensors == 2) copy_by_lanes(p.grad_o, to + kBlockBytes, tokens, pairs, head, b, R);
      return 0;
    }
#pragma unroll 1
    for (int i = lane_here(); i < pairs; i += 32) {
      const int token = static_cast<int>(tokens[i]);
#pragma unroll
      for (int tensor = 0; tensor < kTensors; ++tensor) {
#pragma unroll
        for (int panel = 0; panel < kPanels; ++panel) {
          copy_box(to + static_cast<uint32_t>(tensor * kBlockBytes + panel * kPanelBytes + i * R * 128),
                   tensor == 0 ? &maps.q : &maps.grad_o, full, panel * 64, head, token, b);
        }
      }
    }
    return static_cast<uint32_t>(pairs * R * kTensors * kPanels * 128);
  }

  // Of one tensor, in the order of panels (wgmma.cuh).
  __device__ void copy_by_lanes(const Rows& x, uint32_t to, const uint32_t* tokens, int pairs, int head, int b, int R) {
    constexpr int kPieces = kD / 8;  // of 16 bytes in a row
    const char* from = static_cast<const char*>(x.data) + 2 * (b * x.batch + head * x.head);
#pragma unroll 4
    for (int i = lane_here(); i < pairs * R * kPieces; i += 32) {
      const int row = i / kPieces, piece = i % kPieces, pair = row_pair(row);
      copy_16(to + static_cast<uint32_t>(piece / 8 * kPanelBytes + row * 128 + ((piece ^ row) % 8 << 4)),
              from + 2 * (tokens[pair] * x.token + (row - pair * R) * x.head + piece * 8));
    }
  }

  __device__ void place_pair(int e, int g, int b, PairPlace& to) {
    const uint32_t pair = shared.item.pair[e], row = static_cast<uint32_t>(b) * static_cast<uint32_t>(p.L) + shared.item.token[e];
    const uint32_t row_pair = (row * static_cast<uint32_t>(p.Gi) + (p.Gi == 1 ? 0 : g)) * static_cast<uint32_t>(p.N);
    const int64_t slot = pair - row_pair, in_block = pair - shared.item.first_pair;
    const int head = g * p.R;
    const uint32_t in_pair = p.Gi == 1 ? static_cast<uint32_t>(head) : 0;
    const int hw = p.Hw == p.H ? head : p.Hw == 1 ? 0 : g;
    to.weight = (row * p.Hw + hw) * p.N + slot;
    to.ring = shared.item.ring_row + in_block * shared.item.ring_pair + in_pair;
    if (p.lse != nullptr) to.lse = (row * p.H + head) * p.N + slot;
  }

  // Partial results of a few rows of queries: for each row, index head and up to kSumHeads heads, those of the used slots, as many at a
  // time as a stage holds.
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
      for (int head = 0; head < Hi; head += kSumHeads<kD>) {
        const int heads = min(kSumHeads<kD>, Hi - head), most = kTensors * kBlockBytes / (heads * kD * 2);
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
            StageHead& stage = shared.stage[s];
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
  SharedHere& shared;
  const uint32_t base;         // of dynamic shared memory
  int s = 0, chunk_slot = -1;  // stage to fill next; chunk slot filled last
  uint32_t phase = 0, chunk_phase = 0;
  int reduced = -1, done = -1;  // blocks known to be summed, to have all partial results
};

// Sets up barriers and zeroes the dynamic shared memory (rows that no copy writes must hold numbers); all threads of the block call this.
template <int kStages, int kTensors>
__device__ inline void prepare(const Params& p, Shared<kStages, kTensors>& shared, uint32_t from, int bytes) {
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(shared_address(&shared.full[i]), kTensors * kArrivals + (p.by_lanes ? 32 : 0));  // with the helper's
      barrier_init(shared_address(&shared.ready[i]), kArrivals);
      barrier_init(shared_address(&shared.empty[i]), kThreads / 32 * kArrivals);
    }
    for (int i = 0; i < 2; ++i) barrier_init(shared_address(&shared.chunk_empty[i]), kThreads / 32 * kArrivals);
    barrier_init_done();
  }
  for (int i = static_cast<int>(threadIdx.x) * 16; i < bytes; i += static_cast<int>(blockDim.x) * 16) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};\n" ::"r"(from + static_cast<uint32_t>(i)), "r"(0) : "memory");
  }
  fence_shared_for_matrix();
  __syncthreads();
}

// Of a warp, after all its threads.
__device__ inline void release(uint64_t& barrier) {
  __syncwarp();
  if (kArrivals > 1 || threadIdx.x % 32 == 0) barrier_arrive(shared_address(&barrier));
}

// The consumers' place in the row of stages.
template <int kStages, int kTensors>
struct Cursor {
  Shared<kStages, kTensors>& shared;
  int s = 0;
  uint32_t phase = 0;
  __device__ const Stage<kTensors>& wait() {
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
