// Many rows: training, prefill, the tail of a question. A block scores BM rows against BN chunks at a time on tensor cores (bf16 in, fp32
// accumulators) and keeps the best keys of every row in shared memory; only scores above the row's bar leave the registers. Chunks that no
// row of the block sees are never touched.
#pragma once

#include "cairn/ops/select/keys.cuh"
#include "cairn/ops/select/tensor.cuh"

namespace cairn::select_cuda {

constexpr int kManyThreads = 256;
constexpr int kManyWarps = kManyThreads / 32;
constexpr int kDepth = 64;  // numbers of a row that a stage holds: 128 bytes, 8 units of 16
constexpr int kUnits = 8, kUnitNumbers = 8, kRowBytes = kDepth * 2;
constexpr int kMostStages = 3, kFewestStages = 2;

// 8 warps as 2 x 4; a warp's part of the tile is (16 ROW_TILES) x (8 CHUNK_TILES). KEYS: buffer of a row. BLOCKS share a multiprocessor:
// one multiplies while another gathers.
template <int ROW_TILES, int CHUNK_TILES, int KEYS, int BLOCKS>
struct ManyShape {
  static constexpr int kRowTiles = ROW_TILES, kChunkTiles = CHUNK_TILES, kBlocks = BLOCKS;
  static constexpr int kRows = 2 * 16 * ROW_TILES, kChunks = 4 * 8 * CHUNK_TILES, kKeys = KEYS;
  static constexpr int kStageBytes = (kRows + kChunks) * kRowBytes;
  static constexpr int kFixedBytes = kRows * (KEYS * 8 + 8 + 8 + 8 + 4 + 4 + 4);
  static constexpr int bytes(int stages) { return stages * kStageBytes + kFixedBytes; }
};
using ShortLists = ManyShape<4, 4, 32, 2>;   // 128 rows x 128 chunks; N <= 16
using MiddleLists = ManyShape<4, 8, 64, 1>;  // 128 rows x 256 chunks; N <= 32
using LongLists = ManyShape<2, 4, 256, 1>;   // 64 rows x 128 chunks; N <= kMostChosen
constexpr int kSamples = 32;                 // lanes that hold a row of the tile, twice

// Shared memory of a device in bytes: what a block may have, and a multiprocessor has.
struct Memory {
  int block, multiprocessor;
};

// Where unit u of row r of a stage lies: rows are rotated so that the 8 rows of a matrix load fall on different banks.
__device__ inline uint32_t unit_at(uint32_t base, int r, int u) {
  return base + static_cast<uint32_t>(r * kRowBytes + ((u ^ (r & 7)) * kUnitBytes));
}

// Shared memory behind the stages, per row of the tile.
template <typename Shape>
struct ManyLists {
  uint64_t keys[Shape::kRows][Shape::kKeys];
  uint64_t bar[Shape::kRows];      // key that newcomers must beat
  int64_t query_at[Shape::kRows];  // where the row's query begins; -1: no such row
  int64_t flat[Shape::kRows];      // its place in the result
  float bar_raw[Shape::kRows];     // no sum (unscaled score) below it can beat the bar: the quick test
  int count[Shape::kRows];         // may run past kKeys; what did not fit is offered again
  int seen[Shape::kRows];          // visible chunks
};

// A little less than score / scale, so that rounding keeps nothing out that belongs in.
__device__ inline float raw_bar(float score, float scale) {
  const float x = score / scale;
  return fabsf(x) == infinity() ? x : x - fabsf(x) * 1e-6f - 1e-37f;
}

// Cuts row r to its n best, by one warp; they come back in x, descending (key 32 i + lane in x[i]).
template <typename Shape>
__device__ inline void cut_row(ManyLists<Shape>& lists, int r, int n, float scale, uint64_t (&x)[Shape::kKeys / 32]) {
  constexpr int kEach = Shape::kKeys / 32;
  const int lane = threadIdx.x & 31, have = min(lists.count[r], Shape::kKeys);
#pragma unroll
  for (int i = 0; i < kEach; ++i) x[i] = i * 32 + lane < have ? lists.keys[r][i * 32 + lane] : 0;
  __syncwarp();  // all lanes have read
  if (have <= 32) {
    uint64_t few[1] = {x[0]};
    warp_sort<1>(few);
    x[0] = few[0];
  } else {
    warp_sort<kEach>(x);
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (i * 32 + lane < n) lists.keys[r][i * 32 + lane] = x[i];
    if (i * 32 + lane == n - 1) {
      lists.bar[r] = x[i];
      lists.bar_raw[r] = x[i] == 0 ? -infinity() : raw_bar(score_of(x[i]), scale);
    }
  }
  if (lane == 0) lists.count[r] = min(have, n);
  __syncwarp();
}

// Nothing is known of a row before its first tile, and all scores would be gathered and sorted. A first bar comes cheap: each of 16 lanes
// has 16 sums of a row, in two halves; at least N scores are no less than the N-th largest of the lanes' (or halves') largest. By the whole
// block.
template <typename Shape>
__device__ inline void first_bars(const Params& p, ManyLists<Shape>& lists, const float (&c)[Shape::kRowTiles][Shape::kChunkTiles][4],
                                  int row_base, int page_end, int first_chunk) {
  constexpr int kHalf = Shape::kChunkTiles / 2;
  const int thread = threadIdx.x, lane = thread & 31, n = static_cast<int>(p.n), samples = n <= kSamples / 2 ? kSamples / 2 : kSamples;
#pragma unroll
  for (int m = 0; m < Shape::kRowTiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = row_base + m * 16 + h * 8 + lane / 4, left = min(lists.seen[r], page_end) - first_chunk;
      float most[2] = {-infinity(), -infinity()};
#pragma unroll
      for (int k = 0; k < Shape::kChunkTiles; ++k) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (k * 8 + e < left) most[k / kHalf] = fmaxf(most[k / kHalf], c[m][k][2 * h + e]);
        }
      }
      float* sample = reinterpret_cast<float*>(lists.keys) + ((thread / 32 % 4) * 4 + (lane & 3)) * Shape::kRows + r;
      sample[0] = samples == kSamples ? most[0] : fmaxf(most[0], most[1]);
      if (samples == kSamples) sample[kSamples / 2 * Shape::kRows] = most[1];
    }
  }
  __syncthreads();
  if (thread < Shape::kRows) {
    const float* sample = reinterpret_cast<const float*>(lists.keys) + thread;  // [samples][rows]
    float nth = -infinity();
    for (int i = 0; i < samples; ++i) {
      const float x = sample[i * Shape::kRows];
      int before = 0;  // samples that stand before this one, were they sorted
#pragma unroll 8
      for (int j = 0; j < samples; ++j) {
        const float y = sample[j * Shape::kRows];
        before += y > x || (y == x && j < i);
      }
      if (before == n - 1) nth = x;
    }
    if (nth > -infinity()) {
      const float score = nth * p.scale;
      lists.bar[thread] = make_key(score, 0) - 1;
      lists.bar_raw[thread] = raw_bar(score, p.scale);
    }
  }
  __syncthreads();
}

template <typename Shape>
__global__ void __launch_bounds__(kManyThreads, Shape::kBlocks) many_rows_kernel(const __grid_constant__ Params p, int stages) {
  constexpr int kRowTiles = Shape::kRowTiles, kChunkTiles = Shape::kChunkTiles, kEach = Shape::kKeys / 32;
  extern __shared__ __align__(128) unsigned char memory[];
  auto& lists = *reinterpret_cast<ManyLists<Shape>*>(memory + stages * Shape::kStageBytes);
  static_assert(sizeof(ManyLists<Shape>) == Shape::kFixedBytes && kSamples * sizeof(float) <= sizeof(lists.keys[0]));
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
  const int thread = threadIdx.x, lane = thread & 31, warp = thread / 32, n = static_cast<int>(p.n);
  const int64_t group = blockIdx.z, group_rows = p.shared ? p.batch * p.rows : p.rows;
  // Later rows see more chunks: they start first.
  const int64_t first_row = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * Shape::kRows;

  __shared__ int reach_shared;
  __shared__ int limits[kMostPages];             // chunks of a page that the block reads
  __shared__ const uint16_t* bases[kMostPages];  // where the page begins for this text and head
  if (thread == 0) reach_shared = 0;
  __syncthreads();
  for (int r = thread; r < Shape::kRows; r += kManyThreads) {
    const Row row = row_of(p, group, first_row + r);
    const bool valid = first_row + r < group_rows;
    const int seen = valid ? static_cast<int>(min(visible(p, row.t), p.end)) : 0;
    lists.seen[r] = seen;
    lists.flat[r] = flat_row(p, row);
    lists.query_at[r] = valid ? row.b * p.query_batch_stride + row.t * p.query_row_stride + row.q * p.query_head_stride : -1;
    lists.count[r] = 0;
    lists.bar[r] = 0;
    lists.bar_raw[r] = -infinity();
    atomicMax(&reach_shared, seen);
  }
  __syncthreads();
  // This block's share of the tiles. A tile lies in one page, so that its addresses are simple; a page's last tile may be short.
  // Chunks, and so tiles, are fewer than 2^31.
  const int reach = reach_shared;
  if (thread < p.page_count) {
    const Row top = row_of(p, group, first_row);
    const Page& page = p.pages[thread];
    limits[thread] = max(min(static_cast<int>(page.count), reach - static_cast<int>(page.begin)), 0);
    bases[thread] = static_cast<const uint16_t*>(page.data) + top.b * page.batch_stride + top.q * page.head_stride;
  }
  __syncthreads();
  const auto tiles_of = [&](int page) { return (limits[page] + Shape::kChunks - 1) / Shape::kChunks; };
  int all_tiles = 0;
  for (int page = 0; page < p.page_count; ++page) all_tiles += tiles_of(page);
  const int first_tile = static_cast<int>(static_cast<int64_t>(all_tiles) * blockIdx.y / gridDim.y);
  const int tiles = static_cast<int>(static_cast<int64_t>(all_tiles) * (blockIdx.y + 1) / gridDim.y) - first_tile;
  struct Place {  // a tile's page and where the tile begins in it
    int page, local;
  };
  const auto step = [&](Place& at) {
    at.local += Shape::kChunks;
    while (at.local >= limits[at.page] && at.page + 1 < p.page_count) {
      ++at.page;
      at.local = 0;
    }
  };
  Place place = {0, 0};
  place.local = first_tile;
  while (place.local >= tiles_of(place.page) && place.page + 1 < p.page_count) place.local -= tiles_of(place.page++);
  place.local *= Shape::kChunks;
  const int depths = static_cast<int>((p.width + kDepth - 1) / kDepth);

  // Copies of a stage: thread t takes unit t % 8 of rows t / 8, t / 8 + 32, ...
  const int unit = thread % kUnits, copy_row = thread / kUnits;
  constexpr int kRowsAtOnce = kManyThreads / kUnits;
  const auto* query = static_cast<const uint16_t*>(p.query);
  int loads_left = tiles;  // tiles
  Place load_place = place;
  int load_depth = 0, load_stage = 0, load_count = 0;  // load_count: chunks of the tile
  const uint16_t* load_from = nullptr;                 // the thread's unit of the tile's chunk copy_row
  int64_t load_stride = 0;
  // Copies come in kParts parts, so that their addresses are computed between products. prepare() first, then the parts, then commit.
  constexpr int kParts = kDepth / 16, kCopiesOfRows = Shape::kRows / kRowsAtOnce, kCopiesOfChunks = Shape::kChunks / kRowsAtOnce;
  uint32_t load_at = 0;  // the stage that is filled
  int load_x = 0;
  bool loading = false;  // nothing is left at the end: then zeros are written where nobody reads
  const auto prepare = [&] {
    if (loads_left > 0 && load_depth == 0) {
      load_stride = p.pages[load_place.page].chunk_stride;
      load_count = min(limits[load_place.page] - load_place.local, Shape::kChunks);
      load_from = bases[load_place.page] + static_cast<int64_t>(load_place.local + copy_row) * load_stride + unit * kUnitNumbers;
      step(load_place);
    }
    load_at = shared + load_stage * Shape::kStageBytes;
    load_x = load_depth * kDepth;
    loading = loads_left > 0 && load_x + unit * kUnitNumbers < p.width;
    if (++load_stage == stages) load_stage = 0;
    if (++load_depth == depths) {
      load_depth = 0;
      --loads_left;
    }
  };
  const auto load_part = [&](int part) {
#pragma unroll
    for (int j = part * kCopiesOfRows / kParts; j < (part + 1) * kCopiesOfRows / kParts; ++j) {
      const int r = copy_row + j * kRowsAtOnce;
      const int64_t at = lists.query_at[r];
      const bool valid = loading && at >= 0;
      copy_unit(unit_at(load_at, r, unit), query + (valid ? at + load_x + unit * kUnitNumbers : 0), valid);
    }
#pragma unroll
    for (int j = part * kCopiesOfChunks / kParts; j < (part + 1) * kCopiesOfChunks / kParts; ++j) {
      const int r = copy_row + j * kRowsAtOnce;
      const bool valid = loading && r < load_count;
      copy_unit(unit_at(load_at + Shape::kRows * kRowBytes, r, unit), valid ? load_from + j * kRowsAtOnce * load_stride + load_x : query,
                valid);
    }
  };

  const int row_base = (warp / 4) * 16 * kRowTiles, chunk_base = (warp % 4) * 8 * kChunkTiles;
  // Rows are cut long before their buffers are full: a fresh bar spares more than a cut costs.
  const int limit = n <= Shape::kKeys / 4 ? Shape::kKeys / 2 - 1 : (Shape::kKeys + n) / 2;
  float c[kRowTiles][kChunkTiles][4];
  for (int s = 1; s < stages; ++s) {
    prepare();
#pragma unroll
    for (int part = 0; part < kParts; ++part) load_part(part);
    commit_copies();
  }
  int stage = 0;
  for (int tile = 0; tile < tiles; ++tile) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int k = 0; k < kChunkTiles; ++k) c[m][k][0] = c[m][k][1] = c[m][k][2] = c[m][k][3] = 0;
    }
    for (int depth = 0; depth < depths; ++depth) {
      if (stages == kMostStages) {
        wait_copies<kMostStages - 2>();
      } else {
        wait_copies<kFewestStages - 2>();
      }
      __syncthreads();  // the stage is complete, and everyone has left the one that is filled next
      prepare();
      // Rows of a matrix load differ in their last three bits only, so units are rotated by those of the lane.
      const uint32_t stage_at = shared + stage * Shape::kStageBytes;
      const uint32_t a_at = stage_at + (row_base + (lane & 15)) * kRowBytes, a_unit = ((lane / 16) ^ (lane & 7)) * kUnitBytes;
      const uint32_t b_at = stage_at + (Shape::kRows + chunk_base + (lane & 7) + lane / 16 * 8) * kRowBytes;
      const uint32_t b_unit = ((lane / 8 & 1) ^ (lane & 7)) * kUnitBytes;
      if (++stage == stages) stage = 0;
#pragma unroll 2
      for (int k16 = 0; k16 < kDepth / 16; ++k16) {
        uint32_t a[kRowTiles][4];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) load_matrices(a[m], a_at + m * 16 * kRowBytes + (a_unit ^ (k16 * 2 * kUnitBytes)));
        load_part(k16);
#pragma unroll
        for (int k = 0; k < kChunkTiles; k += 2) {
          uint32_t b[4];  // two tiles of 8 chunks
          load_matrices(b, b_at + k * 8 * kRowBytes + (b_unit ^ (k16 * 2 * kUnitBytes)));
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            multiply(c[m][k], a[m], b[0], b[1]);
            multiply(c[m][k + 1], a[m], b[2], b[3]);
          }
        }
      }
      commit_copies();  // also an empty group, so that they can be counted
    }

    // Lane l holds rows l / 4 (and 8 further) and chunks 2 (l % 4), + 1 of each 16 x 8 tile.
    const int page_begin = static_cast<int>(p.pages[place.page].begin), page_end = page_begin + static_cast<int>(p.pages[place.page].count);
    const int first_chunk = page_begin + place.local + chunk_base + 2 * (lane & 3);
    step(place);
    if (tile == 0 && n <= kSamples) first_bars<Shape>(p, lists, c, row_base, page_end, first_chunk);
    for (;;) {
      bool rejected = false;
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int r = row_base + m * 16 + h * 8 + lane / 4;
          const float bar_raw = lists.bar_raw[r];
          float most = c[m][0][2 * h];
#pragma unroll
          for (int k = 0; k < kChunkTiles; ++k) most = fmaxf(most, fmaxf(c[m][k][2 * h], c[m][k][2 * h + 1]));
          if (!(most >= bar_raw)) continue;
          const int left = min(lists.seen[r], page_end) - first_chunk;
#pragma unroll
          for (int k = 0; k < kChunkTiles; ++k) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              float& sum = c[m][k][2 * h + e];
              if (!(sum >= bar_raw) || k * 8 + e >= left) continue;
              const uint64_t key = make_key(sum * p.scale, first_chunk + k * 8 + e);
              if (key <= lists.bar[r]) continue;
              const int slot = atomicAdd(&lists.count[r], 1);
              if (slot < Shape::kKeys) {
                lists.keys[r][slot] = key;
                sum = __int_as_float(0x7fc00000);  // NaN: not offered again
              } else {
                rejected = true;
              }
            }
          }
        }
      }
      if (!__syncthreads_or(rejected)) break;
      for (int r = warp; r < Shape::kRows; r += kManyWarps) {
        uint64_t x[kEach];
        if (lists.count[r] > (Shape::kKeys + n) / 2) cut_row<Shape>(lists, r, n, p.scale, x);  // those nearly full come along
      }
      __syncthreads();
    }
  }

  __syncthreads();
  for (int r = warp; r < Shape::kRows && lists.query_at[r] >= 0; r += kManyWarps) {
    uint64_t x[kEach];
    cut_row<Shape>(lists, r, n, p.scale, x);
    const int64_t row = lists.flat[r];
    if (p.parts == 1) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) x[i] = i * 32 + lane < n ? by_number(x[i]) : 0;
      if (n <= 32) {
        uint64_t few[1] = {x[0]};
        warp_sort<1>(few);
        x[0] = few[0];
      } else {
        warp_sort<kEach>(x);
      }
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int slot = i * 32 + lane;
      if (slot >= n) continue;
      if (p.parts == 1) {
        write_result(p, row, slot, x[i]);
      } else {
        p.partial[(row * p.parts + p.first_part + blockIdx.y) * p.n + slot] = x[i];
      }
    }
  }
}

constexpr int kReservedBytes = 2048;  // of a block's shared memory: static variables and the system's own

// Stages that fit with kBlocks blocks a multiprocessor, or fewer blocks; 0: none.
template <typename Shape>
int stages_of(const Memory& memory) {
  for (const int stages : {kMostStages, kFewestStages}) {
    if (Shape::kBlocks * (Shape::bytes(stages) + kReservedBytes) <= memory.multiprocessor && Shape::bytes(stages) <= memory.block)
      return stages;
  }
  return Shape::bytes(kFewestStages) + kReservedBytes <= memory.block ? kFewestStages : 0;
}

template <typename Shape>
cudaError_t launch_many(const Params& p, const Memory& memory, cudaStream_t stream) {
  const int stages = stages_of<Shape>(memory);
  const auto kernel = many_rows_kernel<Shape>;
  if (const cudaError_t error = allow_shared(kernel, Shape::bytes(stages)); error != cudaSuccess) return error;
  const int64_t group_rows = p.shared ? p.batch * p.rows : p.rows, groups = p.shared ? p.heads : p.batch * p.heads;
  const dim3 grid(static_cast<unsigned>((group_rows + Shape::kRows - 1) / Shape::kRows), static_cast<unsigned>(p.launch_parts),
                  static_cast<unsigned>(groups));
  kernel<<<grid, kManyThreads, Shape::bytes(stages), stream>>>(p, stages);
  return cudaGetLastError();
}

cudaError_t launch_short_lists(const Params& p, const Memory& memory, cudaStream_t stream);
cudaError_t launch_middle_lists(const Params& p, const Memory& memory, cudaStream_t stream);
cudaError_t launch_long_lists(const Params& p, const Memory& memory, cudaStream_t stream);

}  // namespace cairn::select_cuda
