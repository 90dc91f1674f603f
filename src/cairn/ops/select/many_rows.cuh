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

// 8 warps as 2 x 4; a warp's part of the tile is (16 MT) x (8 NT). BUFFER keys a row.
template <int ROW_TILES, int CHUNK_TILES, int KEYS>
struct ManyShape {
  static constexpr int kRowTiles = ROW_TILES, kChunkTiles = CHUNK_TILES;
  static constexpr int kRows = 2 * 16 * ROW_TILES, kChunks = 4 * 8 * CHUNK_TILES, kKeys = KEYS;
  static constexpr int kStageBytes = (kRows + kChunks) * kRowBytes;
  static constexpr int kFixedBytes = kRows * (KEYS * 8 + 8 + 8 + 8 + 4 + 4 + 4);
  static constexpr int bytes(int stages) { return stages * kStageBytes + kFixedBytes; }
};
using ShortLists = ManyShape<4, 8, 64>;  // 128 rows x 256 chunks; N <= 32
using LongLists = ManyShape<2, 4, 256>;  // 64 rows x 128 chunks; N <= kMostChosen

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
  float bar_score[Shape::kRows];   // its score: the quick test
  int count[Shape::kRows];         // may run past kKeys; what did not fit is offered again
  int seen[Shape::kRows];          // visible chunks
};

// Cuts row r to its n best, by one warp; they come back in x, descending (key 32 i + lane in x[i]).
template <typename Shape>
__device__ inline void cut_row(ManyLists<Shape>& lists, int r, int n, uint64_t (&x)[Shape::kKeys / 32]) {
  constexpr int kEach = Shape::kKeys / 32;
  const int lane = threadIdx.x & 31, have = min(lists.count[r], Shape::kKeys);
#pragma unroll
  for (int i = 0; i < kEach; ++i) x[i] = i * 32 + lane < have ? lists.keys[r][i * 32 + lane] : 0;
  warp_sort<kEach>(x);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (i * 32 + lane < n) lists.keys[r][i * 32 + lane] = x[i];
    if (i * 32 + lane == n - 1) {
      lists.bar[r] = x[i];
      lists.bar_score[r] = x[i] == 0 ? -infinity() : score_of(x[i]);
    }
  }
  if (lane == 0) lists.count[r] = min(have, n);
  __syncwarp();
}

template <typename Shape>
__global__ void __launch_bounds__(kManyThreads, 1) many_rows_kernel(const __grid_constant__ Params p, int stages) {
  constexpr int kRowTiles = Shape::kRowTiles, kChunkTiles = Shape::kChunkTiles, kEach = Shape::kKeys / 32;
  extern __shared__ __align__(128) unsigned char memory[];
  auto& lists = *reinterpret_cast<ManyLists<Shape>*>(memory + stages * Shape::kStageBytes);
  static_assert(sizeof(ManyLists<Shape>) == Shape::kFixedBytes);
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
    lists.bar_score[r] = -infinity();
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
  const auto load = [&] {
    if (loads_left > 0) {
      if (load_depth == 0) {
        load_stride = p.pages[load_place.page].chunk_stride;
        load_count = min(limits[load_place.page] - load_place.local, Shape::kChunks);
        load_from = bases[load_place.page] + static_cast<int64_t>(load_place.local + copy_row) * load_stride + unit * kUnitNumbers;
      }
      const int x = load_depth * kDepth + unit * kUnitNumbers;
      const bool inside = x < p.width;
      const uint32_t stage = shared + load_stage * Shape::kStageBytes;
#pragma unroll
      for (int j = 0; j < Shape::kRows / kRowsAtOnce; ++j) {
        const int r = copy_row + j * kRowsAtOnce;
        const int64_t at = lists.query_at[r];
        const bool valid = inside && at >= 0;
        copy_unit(unit_at(stage, r, unit), query + (valid ? at + x : 0), valid);
      }
#pragma unroll
      for (int j = 0; j < Shape::kChunks / kRowsAtOnce; ++j) {
        const int r = copy_row + j * kRowsAtOnce;
        const bool valid = inside && r < load_count;
        copy_unit(unit_at(stage + Shape::kRows * kRowBytes, r, unit),
                  valid ? load_from + j * kRowsAtOnce * load_stride + load_depth * kDepth : query, valid);
      }
      if (++load_stage == stages) load_stage = 0;
      if (++load_depth == depths) {
        load_depth = 0;
        --loads_left;
        step(load_place);
      }
    }
    commit_copies();  // also an empty group, so that they can be counted
  };

  const int row_base = (warp / 4) * 16 * kRowTiles, chunk_base = (warp % 4) * 8 * kChunkTiles;
  float c[kRowTiles][kChunkTiles][4];
  for (int s = 1; s < stages; ++s) load();
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
      load();
      // Rows of a matrix load differ in their last three bits only, so units are rotated by those of the lane.
      const uint32_t stage_at = shared + stage * Shape::kStageBytes;
      const uint32_t a_at = stage_at + (row_base + (lane & 15)) * kRowBytes, a_unit = ((lane / 16) ^ (lane & 7)) * kUnitBytes;
      const uint32_t b_at = stage_at + (Shape::kRows + chunk_base + (lane & 7) + lane / 16 * 8) * kRowBytes;
      const uint32_t b_unit = ((lane / 8 & 1) ^ (lane & 7)) * kUnitBytes;
      if (++stage == stages) stage = 0;
#pragma unroll
      for (int k16 = 0; k16 < kDepth / 16; ++k16) {
        uint32_t a[kRowTiles][4];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) load_matrices(a[m], a_at + m * 16 * kRowBytes + (a_unit ^ (k16 * 2 * kUnitBytes)));
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
    }

    // Lane l holds rows l / 4 (and 8 further) and chunks 2 (l % 4), + 1 of each 16 x 8 tile. What is not visible, or kept already, is NaN:
    // no comparison lets it through.
    const int page_begin = static_cast<int>(p.pages[place.page].begin);
    const int page_end = page_begin + static_cast<int>(p.pages[place.page].count);
    const int first_chunk = page_begin + place.local + chunk_base + 2 * (lane & 3);
    step(place);
    const float nan = __int_as_float(0x7fc00000);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int left = min(lists.seen[row_base + m * 16 + h * 8 + lane / 4], page_end) - first_chunk;
#pragma unroll
        for (int k = 0; k < kChunkTiles; ++k) {
#pragma unroll
          for (int e = 0; e < 2; ++e) c[m][k][2 * h + e] = k * 8 + e < left ? tidy_score(c[m][k][2 * h + e] * p.scale) : nan;
        }
      }
    }
    for (;;) {
      bool rejected = false;
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int r = row_base + m * 16 + h * 8 + lane / 4;
          const float bar_score = lists.bar_score[r];
#pragma unroll
          for (int k = 0; k < kChunkTiles; ++k) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              float& score = c[m][k][2 * h + e];
              if (score >= bar_score) {
                const uint64_t key = make_key(score, first_chunk + k * 8 + e);
                if (key > lists.bar[r]) {
                  const int slot = atomicAdd(&lists.count[r], 1);
                  if (slot < Shape::kKeys) {
                    lists.keys[r][slot] = key;
                    score = nan;
                  } else {
                    rejected = true;
                  }
                }
              }
            }
          }
        }
      }
      if (!__syncthreads_or(rejected)) break;
      for (int r = warp; r < Shape::kRows; r += kManyWarps) {
        uint64_t x[kEach];
        if (lists.count[r] > (Shape::kKeys + n) / 2) cut_row<Shape>(lists, r, n, x);  // those nearly full come along
      }
      __syncthreads();
    }
  }

  __syncthreads();
  for (int r = warp; r < Shape::kRows && lists.query_at[r] >= 0; r += kManyWarps) {
    uint64_t x[kEach];
    cut_row<Shape>(lists, r, n, x);
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

template <typename Shape>
cudaError_t launch_many(const Params& p, int most_bytes, cudaStream_t stream) {
  const int stages = Shape::bytes(kMostStages) <= most_bytes ? kMostStages : kFewestStages;
  const auto kernel = many_rows_kernel<Shape>;
  if (const cudaError_t error = allow_shared(kernel, Shape::bytes(stages)); error != cudaSuccess) return error;
  const int64_t group_rows = p.shared ? p.batch * p.rows : p.rows, groups = p.shared ? p.heads : p.batch * p.heads;
  const dim3 grid(static_cast<unsigned>((group_rows + Shape::kRows - 1) / Shape::kRows), static_cast<unsigned>(p.launch_parts),
                  static_cast<unsigned>(groups));
  kernel<<<grid, kManyThreads, Shape::bytes(stages), stream>>>(p, stages);
  return cudaGetLastError();
}

cudaError_t launch_short_lists(const Params& p, int most_bytes, cudaStream_t stream);
cudaError_t launch_long_lists(const Params& p, int most_bytes, cudaStream_t stream);

}  // namespace cairn::select_cuda
