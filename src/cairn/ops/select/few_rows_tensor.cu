// Few rows of bf16 against bf16 landmarks: decoding. Bound by reading the landmarks. Every thread streams its own numbers of them through a
// private ring in shared memory (no barrier), several steps ahead, and multiplies on tensor cores as they come: 16 chunks by 8 queries by
// 16 numbers. Sums do not depend on the order of the numbers, so a lane's 16 bytes serve as they lie: its first four numbers count as those
// that the instruction wants of it first, its last four as those of a second instruction, and queries are laid out alike. Of 8-bit
// landmarks 16 bytes are sixteen numbers, multiplied as they lie on the integer tensor cores: a query is 16-bit fixed point there (step:
// 2^-14 of the power of two below its largest number, which all numbers above 1/128 of that fit exactly), its upper and its lower bytes by
// themselves, and both sums are exact. A landmark's scale is a factor of the finished sum. (Made
// bf16 in registers they took 100 us at 32 million tokens, now 91; bf16 landmarks take 139. A ring of six steps, and looking at the buffers
// every other tile only, changed nothing.)
#include "cairn/ops/cuda/dependent.cuh"
#include "cairn/ops/select/few_rows.cuh"
#include "cairn/ops/select/step_launch.h"
#include "cairn/ops/select/tensor.cuh"

namespace cairn::select_cuda {
namespace {

constexpr int kWarpChunks = 16, kTileChunks = kWarpChunks * kFewWarps;
constexpr int kStages = 4;
constexpr int kStepVectors = 2;  // vectors of a chunk's row that a lane takes a step

__device__ void wait_step() { wait_copies<kStages - 2>(); }

// Where the pages are: in Params, or beside them.
struct NoTable {};
__device__ inline const Page& page_of(const Params& p, const NoTable&, int page) { return p.pages[page]; }
__device__ inline const Page& page_of(const Params&, const PageTable& table, int page) { return table.pages[page]; }
__device__ inline const Int8Page& page_of(const Params&, const Int8Table& table, int page) { return table.pages[page]; }

// How the numbers of a landmark lie.
template <typename Table>
struct Format {
  static constexpr bool kBytes = false;
  static constexpr int kSize = 2;
  static __device__ const unsigned char* landmarks(const Params&, const Page& its, const Row& row) {
    return static_cast<const unsigned char*>(its.data) + (row.b * its.batch_stride + row.q * its.head_stride) * kSize;
  }
  static __device__ int64_t stride(const Params&, const Page& its) { return its.chunk_stride * kSize; }  // bytes from chunk to chunk
  static __device__ float scale(const Params&, const Page&, const Row&, int64_t) { return 1; }
};
template <>
struct Format<Int8Table> {
  static constexpr bool kBytes = true;
  static constexpr int kSize = 1;
  static __device__ const unsigned char* landmarks(const Params& p, const Int8Page& its, const Row& row) {
    return reinterpret_cast<const unsigned char*>(its.data) + row.b * its.batch_stride + row.q * p.width;
  }
  static __device__ int64_t stride(const Params& p, const Int8Page&) { return p.heads * p.width; }
  static __device__ float scale(const Params& p, const Int8Page& its, const Row& row, int64_t local) {
    const int64_t at = (row.b == 0 ? 0 : row.b * (its.batch_stride / p.width)) + local * p.heads + row.q;
    return __uint_as_float(static_cast<uint32_t>(its.scale[at]) << 16);
  }
};
template <typename Table>
constexpr int kVectorNumbers = 16 / Format<Table>::kSize;
template <typename Table>
constexpr int kVectorSpan = 4 * kVectorNumbers<Table>;  // numbers of a row that its four lanes take at once
template <typename Table>
constexpr int kStepNumbers = kStepVectors* kVectorSpan<Table>;
template <typename Table>
constexpr int kQueryUnits = kVectorNumbers<Table> / 8;  // 16 bytes of a query that meet a vector: 8-bit, its upper and its lower bytes

// c [16,8] += a [16,32] b [32,8]; a signed bytes, b signed or unsigned ones.
__device__ inline void multiply_signed(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void multiply_unsigned(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// A query (bf16, 16-byte aligned, `width` numbers, a multiple of 8) as fixed point, by one warp: numbers x .. x + 7 as upper bytes at
// put(x, 0) and as lower bytes at put(x, 1). Returns the step; NaN if a number is not finite.
template <typename Put>
__device__ float fixed_point(const uint16_t* query, int64_t width, int lane, const Put& put) {
  const auto eight = [&](int64_t x) { return *reinterpret_cast<const uint4*>(query + x); };
  const auto bits = [](const uint4& from, int i) {
    return ((i < 2 ? from.x : i < 4 ? from.y : i < 6 ? from.z : from.w) >> (i % 2 * 16)) & 0xffffu;
  };
  uint32_t largest = 0;
  for (int64_t x = lane * 8; x < width; x += 32 * 8) {
    const uint4 from = eight(x);
#pragma unroll
    for (int i = 0; i < 8; ++i) largest = max(largest, bits(from, i) & 0x7fffu);
  }
  largest = __reduce_max_sync(0xffffffffu, largest);
  const int exponent = max(static_cast<int>(largest >> 7), 15) - 127 - 14;
  const float inverse = ldexpf(1, -exponent);
  for (int64_t x = lane * 8; x < width; x += 32 * 8) {
    const uint4 from = eight(x);
    uint32_t upper[2] = {}, lower[2] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int number = __float2int_rn(__uint_as_float(bits(from, i) << 16) * inverse);  // -32640 .. 32640
      upper[i / 4] |= (static_cast<uint32_t>(number >> 8) & 0xffu) << (i % 4 * 8);
      lower[i / 4] |= (static_cast<uint32_t>(number) & 0xffu) << (i % 4 * 8);
    }
    *put(x, 0) = make_uint2(upper[0], upper[1]);
    *put(x, 1) = make_uint2(lower[0], lower[1]);
  }
  return largest >> 7 == 0xff ? __uint_as_float(0x7fc00000u) : ldexpf(1, exponent);
}

template <typename Table>
__global__ void __launch_bounds__(kFewThreads, 2)
    few_rows_tensor_kernel(const __grid_constant__ Params p, const __grid_constant__ Table table, const int64_t* position) {
  using Its = Format<Table>;
  constexpr int kNumbers = kVectorNumbers<Table>, kSpan = kVectorSpan<Table>, kStep = kStepNumbers<Table>, kUnits = kQueryUnits<Table>;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* ring = reinterpret_cast<uint4*>(memory);                  // [kStages][kStepVectors][2][kFewThreads]
  auto* query = ring + kStages * kStepVectors * 2 * kFewThreads;  // [depths][kStepVectors][kUnits][32 lanes]
  const int depths = static_cast<int>((p.width + kStep - 1) / kStep);
  auto* buffer = reinterpret_cast<TopBuffer<kFewBuffer>*>(query + depths * kStepVectors * kUnits * 32);  // [rows]
  __shared__ int64_t seen[kFewRows];
  __shared__ float step[kFewRows];  // of a query's fixed point
  const int thread = threadIdx.x, lane = thread & 31, warp = thread / 32, quarter = lane & 3;
  const int64_t group_rows = p.shared ? p.batch * p.rows : p.rows, blocks_of_rows = (group_rows + kFewRows - 1) / kFewRows;
  const int64_t group = blockIdx.y / blocks_of_rows, first_row = blockIdx.y % blocks_of_rows * kFewRows;
  const int have = static_cast<int>(min(group_rows - first_row, static_cast<int64_t>(kFewRows)));
  const Row first = row_of(p, group, first_row);

  cuda::let_next_start();
  // Later rows of a text see at least as much as earlier ones.
  const int64_t moved = position != nullptr ? *position - p.position : 0;  // it was written before the whole chain, too
  const int64_t reach = visible(p, moved + (p.shared ? p.rows - 1 : row_of(p, group, first_row + have - 1).t));

  // Loading runs ahead of multiplying: a tile, a depth and a page of its own.
  int64_t load_tile = blockIdx.x;
  int load_depth = 0, load_slot = 0, page = 0;
  const unsigned char* from[2] = {};
  bool valid[2] = {};
  const uint32_t ring_at = static_cast<uint32_t>(__cvta_generic_to_shared(ring)) + thread * 16;
  const auto load = [&] {
    if (load_tile < p.tiles) {
      if (load_depth == 0) {
        while (page + 1 < p.page_count && page_of(p, table, page + 1).first_tile <= load_tile) ++page;
        const auto& its = page_of(p, table, page);
        const int64_t local = (load_tile - its.first_tile) * kTileChunks + warp * kWarpChunks + lane / 4;
        const int64_t limit = min(static_cast<int64_t>(its.count), reach - its.begin);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          valid[h] = local + 8 * h < limit;
          from[h] = Its::landmarks(p, its, first) + (valid[h] ? (local + 8 * h) * Its::stride(p, its) : 0);
        }
      }
#pragma unroll
      for (int v = 0; v < kStepVectors; ++v) {
        const int x = load_depth * kStep + v * kSpan + quarter * kNumbers;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const bool inside = valid[h] && x < p.width;
          copy_unit(ring_at + ((load_slot * kStepVectors + v) * 2 + h) * kFewThreads * 16, from[h] + (inside ? x * Its::kSize : 0), inside);
        }
      }
      if (++load_depth == depths) {
        load_depth = 0;
        load_tile += gridDim.x;
      }
    }
    if (++load_slot == kStages) load_slot = 0;
    commit_copies();  // also an empty group, so that they can be counted
  };
  // Landmarks were written long before the queries: they may be on their way while the kernel in front still runs.
  for (int s = 1; s < kStages; ++s) load();
  if constexpr (Its::kBytes) {
    for (int i = thread; i < depths * kStepVectors * kUnits * 32; i += kFewThreads) query[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
  }
  cuda::wait_for_previous();
  if (thread < kFewRows) seen[thread] = thread < have ? visible(p, moved + row_of(p, group, first_row + thread).t) : 0;
  if (thread < have) buffer[thread].clear();
  if constexpr (Its::kBytes) {
    static_assert(kFewWarps >= kFewRows);
    if (warp < have) {
      const Row row = row_of(p, group, first_row + warp);
      const auto* const from =
          static_cast<const uint16_t*>(p.query) + row.b * p.query_batch_stride + row.t * p.query_row_stride + row.q * p.query_head_stride;
      const float its_step = fixed_point(from, p.width, lane, [&](int64_t x, int unit) {
        uint4* const at = query + (x / kSpan * kUnits + unit) * 32 + warp * 4 + x % kSpan / kNumbers;
        return reinterpret_cast<uint2*>(at) + x % kNumbers / 8;
      });
      if (lane == 0) step[warp] = its_step;
    }
  }
  for (int i = thread; !Its::kBytes && i < depths * kStepVectors * 32; i += kFewThreads) {
    const int r = i % 32 / 4, x = i / 32 * kSpan + i % 4 * kNumbers;
    uint4 value = make_uint4(0, 0, 0, 0);
    if (r < have && x < p.width) {
      const Row row = row_of(p, group, first_row + r);
      value = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(p.query) + row.b * p.query_batch_stride +
                                              row.t * p.query_row_stride + row.q * p.query_head_stride + x);
    }
    query[i] = value;
  }
  __syncthreads();

  const int limit_keys = gather_limit(static_cast<int>(p.n));
  int slot = 0, its_page = 0;
  for (int64_t tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
    while (its_page + 1 < p.page_count && page_of(p, table, its_page + 1).first_tile <= tile) ++its_page;
    const auto& its = page_of(p, table, its_page);
    const int64_t local = (tile - its.first_tile) * kTileChunks + warp * kWarpChunks + lane / 4;
    const int64_t limit = min(static_cast<int64_t>(its.count), reach - its.begin);
    float scale[2];  // on their way while the products are made
#pragma unroll
    for (int h = 0; h < 2; ++h) scale[h] = local + 8 * h < limit ? Its::scale(p, its, first, local + 8 * h) : 1;
    float c[2][4] = {};
    [[maybe_unused]] int whole[2][4] = {};  // 8-bit: sums with the upper and with the lower bytes
    for (int depth = 0; depth < depths; ++depth) {
      wait_step();
      load();  // into the slot of the step before
#pragma unroll
      for (int v = 0; v < kStepVectors; ++v) {
        const uint4 x = ring[((slot * kStepVectors + v) * 2) * kFewThreads + thread];
        const uint4 y = ring[((slot * kStepVectors + v) * 2 + 1) * kFewThreads + thread];
        if constexpr (Its::kBytes) {
          const uint4 upper = query[((depth * kStepVectors + v) * kUnits) * 32 + lane],
                      lower = query[((depth * kStepVectors + v) * kUnits + 1) * 32 + lane];
          const uint32_t head[4] = {x.x, y.x, x.y, y.y}, tail[4] = {x.z, y.z, x.w, y.w};
          multiply_signed(whole[0], head, upper.x, upper.y);
          multiply_unsigned(whole[1], head, lower.x, lower.y);
          multiply_signed(whole[0], tail, upper.z, upper.w);
          multiply_unsigned(whole[1], tail, lower.z, lower.w);
        } else {
          const uint4 q = query[(depth * kStepVectors + v) * 32 + lane];
          const uint32_t head[4] = {x.x, y.x, x.y, y.y}, tail[4] = {x.z, y.z, x.w, y.w};
          multiply(c[0], head, q.x, q.y);
          multiply(c[1], tail, q.z, q.w);
        }
      }
      if (++slot == kStages) slot = 0;
    }
    bool full = false;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int r = 2 * quarter + e;
        const int64_t number = its.begin + local + 8 * h;
        if (local + 8 * h < limit && number < seen[r]) {
          const int i = 2 * h + e;
          const float sum = Its::kBytes ? fmaf(static_cast<float>(whole[0][i]), 256, static_cast<float>(whole[1][i])) * step[r] * scale[h]
                                        : c[0][i] + c[1][i];
          const uint64_t key = make_key(sum * p.scale, number);
          if (key > buffer[r].bar) full = buffer[r].push(key, limit_keys) || full;
        }
      }
    }
    if (__syncthreads_or(full)) {
      cut_all(buffer, have, static_cast<int>(p.n), limit_keys);
      __syncthreads();
    }
  }
  __syncthreads();
  finish_few(p, buffer, group, first_row, have);
}

template <typename Table>
cudaError_t launch_with(const Params& p, const Table& table, const int64_t* position, bool ahead, cudaStream_t stream) {
  static_assert(kMostChosen + kFewTile <= kFewBuffer && kTileChunks == kTensorTile && kTileChunks <= kFewTile);
  const int64_t group_rows = p.shared ? p.batch * p.rows : p.rows, groups = p.shared ? p.heads : p.batch * p.heads;
  const int64_t depths = (p.width + kStepNumbers<Table> - 1) / kStepNumbers<Table>;
  const int64_t bytes = kStages * kStepVectors * 2 * kFewThreads * 16 + depths * kStepVectors * kQueryUnits<Table> * 32 * 16 +
                        min(group_rows, static_cast<int64_t>(kFewRows)) * static_cast<int64_t>(sizeof(TopBuffer<kFewBuffer>));
  if (const cudaError_t error = allow_shared(few_rows_tensor_kernel<Table>, static_cast<int>(bytes)); error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>(p.launch_parts), static_cast<unsigned>(groups * ((group_rows + kFewRows - 1) / kFewRows)));
  return cuda::launch_dependent(few_rows_tensor_kernel<Table>, grid, kFewThreads, static_cast<size_t>(bytes), stream, ahead, /*cluster=*/1,
                                p, table, position);
}

}  // namespace

cudaError_t launch_few_rows_tensor(const Params& p, const PageTable* table, const int64_t* position, bool ahead, cudaStream_t stream) {
  return table == nullptr ? launch_with(p, NoTable(), position, ahead, stream) : launch_with(p, *table, position, ahead, stream);
}

cudaError_t launch_few_rows_int8(const Params& p, const Int8Table& table, const int64_t* position, bool ahead, cudaStream_t stream) {
  return launch_with(p, table, position, ahead, stream);
}

}  // namespace cairn::select_cuda
