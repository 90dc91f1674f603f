// The warps that bring the forward in union order (union_forward.cuh) what it works on: the tokens' lists of chunks, queries, and chunk
// after chunk of keys and values.
#pragma once

#include <cstddef>

#include "cairn/ops/hsa/cuda/union_layout.cuh"

namespace cairn::hsa_cuda {

#if CAIRN_HAS_WGMMA
__device__ inline void list_barrier() { asm volatile("bar.sync 2, %0;\n" ::"n"(kListThreads) : "memory"); }

// Stores without a branch.
__device__ inline void store_if(bool condition, uint32_t at, uint32_t value) {
  asm volatile("{\n.reg .pred yes;\nsetp.ne.b32 yes, %0, 0;\n@yes st.shared.b32 [%1], %2;\n}\n" ::"r"(static_cast<int>(condition)), "r"(at),
               "r"(value)
               : "memory");
}

// One warp, which merges the sorted lists of tile after tile into what is fetched for the tile and the visits of its warps, 32 chunks at a
// time.
template <int kD>
class UnionMerge {
  static constexpr int kWarps = UnionLayout<kD>::kWarps, kWarpStrips = UnionLayout<kD>::kWarpStrips;

 public:
  __device__ UnionMerge(const Params& p, const UnionLayout<kD>& at_in)
      : at(at_in),
        stages(static_cast<uint32_t>(p.union_stages)),
        inverse(65536 / stages + 1),
        chunks(static_cast<uint32_t>(p.C)),
        lane(threadIdx.x % 32) {}

  // here: tokens of the tile that there are; returns the number of fetches.
  __device__ uint32_t merge(int here, int buffer) {
    fetch = shared_address(at.fetches_of(buffer)), fetches = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) visit[w] = shared_address(at.visits_of(buffer, w));
    if (at.chosen_by != nullptr) {
      for (uint32_t first = 0; first < chunks; first += 32) {
        const uint32_t chunk = first + lane, word = shared_address(at.chosen_by + chunk);
        const uint32_t who = chunk < chunks ? load_word(word) : 0;
        store_if(chunk < chunks, word, 0);  // for the next tile
        emit(chunk, who);
      }
    } else {
      by_token(here, buffer);
    }
#pragma unroll
    for (int w = 0; w < kWarps; ++w) store_if(lane == 0, visit[w], UnionVisit::kNone);
    return fetches;
  }

 private:
  // The next chunk is the smallest that any token has next; a token a lane. What is found waits in lane after lane.
  __device__ void by_token(int here, int buffer) {
    static_assert(sizeof(UnionEntry) == 16 && offsetof(UnionEntry, chunk) == 0);
    const bool valid = static_cast<int>(lane) < here;
    uint32_t list = shared_address(at.entries_of(buffer, valid ? static_cast<int>(lane) : 0));
    uint32_t head = valid ? load_word(list) : kNoChunk, after = load_word(list += sizeof(UnionEntry));
    for (bool more = true; more;) {
      uint32_t chunk = 0, who = 0;
      for (uint32_t i = 0; i < 32; ++i) {
        const uint32_t next = __reduce_min_sync(0xffffffff, head);
        more = next != kNoChunk;
        if (!more) break;
        const bool mine = head == next;
        const uint32_t tokens = __ballot_sync(0xffffffff, mine);
        head = mine ? after : head, list += mine ? static_cast<uint32_t>(sizeof(UnionEntry)) : 0;
        after = load_word(list);  // not looked at behind the end
        if (lane == i) chunk = next, who = tokens;
      }
      emit(chunk, who);
    }
  }
  // Each lane has a chunk, in ascending order, and who of the tokens chose it; where nobody did there is none. Every warp visits the ring's
  // first stage in every round, see UnionVisit.
  __device__ void emit(uint32_t chunk, uint32_t who) {
    const uint32_t there = __ballot_sync(0xffffffff, who != 0), before = (1u << lane) - 1, i = __popc(there & before);
    const uint32_t rounds = (stage + i) * inverse >> 16, my_stage = stage + i - rounds * stages;
    uint32_t concerned = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      uint32_t strips = 0;
#pragma unroll
      for (int k = 0; k < kWarpStrips; ++k) strips |= (who & at.tokens_of[w * kWarpStrips + k]) != 0 ? 1u << k : 0;
      const bool visits = who != 0 && (strips != 0 || my_stage == 0);
      const uint32_t all = __ballot_sync(0xffffffff, visits);
      store_if(visits, visit[w] + 4 * __popc(all & before), UnionVisit::of(my_stage, use + rounds, strips, fetches + i));
      visit[w] += 4 * __popc(all), concerned += visits ? 1 : 0;
    }
    store_if(who != 0, fetch + 8 * (fetches + i), chunk);
    store_if(who != 0, fetch + 8 * (fetches + i) + 4, static_cast<uint32_t>(kWarps) - concerned);
    const uint32_t count = __popc(there), all_rounds = (stage + count) * inverse >> 16;
    fetches += count, stage += count - all_rounds * stages, use += all_rounds;
  }

  const UnionLayout<kD>& at;
  const uint32_t stages, inverse, chunks, lane;
  uint32_t stage = 0, use = 0;  // of the next chunk
  uint32_t fetch = 0, fetches = 0, visit[kWarps];
};

// The warps that fetch queries, sort every token's chunks, by counting the smaller ones, and merge them.
template <int kD>
__device__ inline void union_make_lists(const Params& p, const Maps& maps, UnionShared& shared, const UnionLayout<kD>& at, int thread) {
  constexpr int kPanels = UnionLayout<kD>::kPanels;
  const int N = at.N, R = p.R;
  UnionMerge<kD> merge(p, at);
  for (int round = 0;; ++round) {
    const UnionPlace place(p, at.tokens, round);
    if (place.here == 0) break;
    const int buffer = place.buffer(), hw = p.Hw == 1 ? 0 : place.g;
    const uint32_t full = shared_address(&shared.tile_full[buffer]);
    if (thread >= 32) {  // first, since they come from far
      barrier_wait_idly<500>(shared_address(&shared.queries_empty), static_cast<uint32_t>(round & 1) ^ 1);
      for (int t = thread - 32; t < place.here; t += kListThreads - 32) {
        const uint32_t to = at.queries + static_cast<uint32_t>(at.rows.first_row(t) * 128);
        for (int panel = 0; panel < kPanels; ++panel) {
          copy_box(to + static_cast<uint32_t>(panel * UnionLayout<kD>::kQueryPanel), &maps.q, full, panel * 64, place.g * R,
                   place.first + t, place.b);
        }
      }
    }
#pragma unroll 2
    for (int e = thread; e < at.tokens * N; e += kListThreads) {
      const int t = e / N, n = e - t * N;
      const int64_t row = place.row(p) + static_cast<uint32_t>(t);
      int64_t chunk = -1;
      uint32_t bits = 0;
      if (t < place.here) {
        chunk = p.index[(row * p.Gi + (p.Gi == 1 ? 0 : place.g)) * N + n];
        if (p.Hw != p.H) bits = load_weight(p, (row * p.Hw + hw) * N + n);
      }
      at.unsorted[e] = {chunk >= 0 && chunk < p.C ? static_cast<uint32_t>(chunk) : kNoChunk, bits};
    }
    barrier_wait_idly<500>(shared_address(&shared.tile_empty[buffer]), place.phase() ^ 1);
    list_barrier();
    for (int t = thread; t < at.tokens; t += kListThreads) at.entries_of(buffer, t)[N].chunk = kNoChunk;
    for (int e = thread; e < at.tokens * N; e += kListThreads) {
      const int t = e / N, n = e - t * N;
      const uint2 mine = at.unsorted[e], *others = at.unsorted + t * N;
      if (at.chosen_by != nullptr && mine.x != kNoChunk) atomicOr(at.chosen_by + mine.x, 1u << t);
      int rank = 0;
      for (int m = 0; m < N; ++m) rank += others[m].x < mine.x || (others[m].x == mine.x && m < n);
      at.entries_of(buffer, t)[rank] = {mine.x, static_cast<uint32_t>(n), weight_of(p, mine.y)};
    }
    list_barrier();  // the lists are there, and nobody reads `unsorted` any more
    if (thread < 32) {
      const uint32_t count = merge.merge(place.here, buffer);
      if (thread == 0) shared.fetches[buffer] = static_cast<int>(count);
    }
    if (thread == 0) {
      barrier_expect(full, static_cast<uint32_t>(place.here * R * kPanels * 128));
    } else {
      barrier_arrive(full);
    }
  }
}

// The warp that fetches chunk after chunk, and leaves the stage for those that do not need it.
template <int kD>
__device__ inline void union_produce(const Params& p, const Maps& maps, UnionShared& shared, const UnionLayout<kD>& at) {
  constexpr int kPanels = UnionLayout<kD>::kPanels, kBlockBytes = UnionLayout<kD>::kBlockBytes;
  const int lane = static_cast<int>(threadIdx.x) % 32, S = static_cast<int>(p.S), tensor = lane % 2, panel = lane / 2;
  const CUtensorMap* map = tensor == 0 ? &maps.k : &maps.v;
  int s = 0;
  uint32_t use = 0;
  for (int round = 0;; ++round) {
    const UnionPlace place(p, at.tokens, round);
    if (place.here == 0) break;
    barrier_wait(shared_address(&shared.tile_full[place.buffer()]), place.phase());
    const UnionFetch* const fetches = at.fetches_of(place.buffer());
    const int count = shared.fetches[place.buffer()];
    for (int i = 0; i < count; ++i) {
      const UnionFetch fetch = fetches[i];
      const uint32_t full = shared_address(&shared.full[s | (use & 1) << 4]), empty = shared_address(&shared.empty[s]);
      barrier_wait(empty, (use & 1) ^ 1);
      if (lane == 0) {
        barrier_expect(full, static_cast<uint32_t>(2 * S * kPanels * 128));
        if (fetch.unconcerned > 0) barrier_arrive_for(empty, fetch.unconcerned * kArrivals);
      }
      __syncwarp();
      if (lane < 2 * kPanels) {
        copy_box(at.stages + static_cast<uint32_t>((2 * s + tensor) * kBlockBytes + panel * kPanelBytes), map, full, panel * 64, place.g,
                 static_cast<int>(fetch.chunk) * S, place.b);
      }
      if (++s == p.union_stages) s = 0, ++use;
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(shared_address(&shared.tile_empty[place.buffer()]));
  }
}
#endif

}  // namespace cairn::hsa_cuda
