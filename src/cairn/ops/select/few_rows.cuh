// Few rows, any of them fp32 (few_rows_tensor.cu has the rest). Bound by reading the landmarks, so each block streams its share of them
// with 16-byte loads, several in flight a lane, and keeps the best keys of each row beside.
#pragma once

#include "cairn/ops/select/keys.cuh"

namespace cairn::select_cuda {

constexpr int kFewThreads = 256;
constexpr int kFewWarps = kFewThreads / 32;
constexpr int kLoads = 8;        // 16-byte loads in flight a lane
constexpr int kFewTile = 128;    // most chunks of a tile
constexpr int kFewBuffer = 512;  // keys a row: kMostChosen and a tile
constexpr int kVectorBytes = 16;

template <typename T>
struct Vector;
template <>
struct Vector<float> {
  static constexpr int kNumbers = 4;
  static __device__ float get(const uint4& x, int i) { return __uint_as_float(i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w); }
};
struct BFloat16 {};  // two in a word; bf16 is the upper half of fp32
template <>
struct Vector<BFloat16> {
  static constexpr int kNumbers = 8;
  static __device__ float get(const uint4& x, int i) {
    const uint32_t word = i / 2 == 0 ? x.x : i / 2 == 1 ? x.y : i / 2 == 2 ? x.z : x.w;
    return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
  }
};

// Landmarks are read once and are far larger than any cache near the core.
__device__ inline uint4 load_once(const void* from) {
  uint4 x;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(from));
  return x;
}

// Sums V values over LANES neighbouring lanes with as few shuffles as there are results: lane l of them ends with the sum of value
// l / (LANES / V) in v[0].
template <int V, int LANES>
__device__ inline float sum_over(float (&v)[V]) {
  const int lane = threadIdx.x & 31;
  int offset = LANES / 2;
#pragma unroll
  for (int half = V / 2; half >= 1; half /= 2, offset /= 2) {
    const bool upper = (lane & offset) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float send = upper ? v[i] : v[i + half], keep = upper ? v[i + half] : v[i];
      v[i] = keep + __shfl_xor_sync(kAllLanes, send, offset);
    }
  }
#pragma unroll
  for (; offset >= 1; offset /= 2) v[0] += __shfl_xor_sync(kAllLanes, v[0], offset);
  return v[0];
}

template <typename T, int LANES, int PIECES>
struct FewShape {
  static constexpr int kMost = kFewTile / (kFewWarps * (32 / LANES));
  static constexpr int kAtOnce = kLoads / PIECES < kMost ? kLoads / PIECES : kMost;  // chunks a lane works on at a time
  static constexpr int kStep = kFewWarps * (32 / LANES);                             // chunks the block's warps hold side by side
  static constexpr int kTile = kStep * kAtOnce;
  static constexpr int kWidth = LANES * PIECES * Vector<T>::kNumbers;  // widest row
};

// Keys that a row may gather before it is cut: an early bar keeps most of what follows out.
__device__ inline int gather_limit(int n) {
  const int limit = 4 * n < 64 ? 64 : 4 * n;
  return limit < kFewBuffer - kFewTile ? limit : kFewBuffer - kFewTile;
}

// What a block has gathered: into its list of each row, or, if it was the only block, as the result. By the whole block, after a barrier.
__device__ inline void finish_few(const Params& p, TopBuffer<kFewBuffer>* buffer, int64_t group, int64_t first_row, int have) {
  const int n = static_cast<int>(p.n);
  cut_all(buffer, have, n, -1);
  for (int k = 0; k < have; ++k) {
    const int64_t row = flat_row(p, row_of(p, group, first_row + k));
    uint64_t* keys = buffer[k].keys;
    if (p.parts == 1) {
      write_sorted(p, row, keys);
    } else {
      for (int i = threadIdx.x; i < n; i += blockDim.x) p.partial[(row * p.parts + p.first_part + blockIdx.x) * n + i] = keys[i];
    }
  }
}

// A chunk's row is spread over LANES lanes, PIECES vectors each. ROWS queries of one group lie in shared memory as fp32.
template <typename T, int LANES, int PIECES, int ROWS>
__global__ void __launch_bounds__(kFewThreads, 2) few_rows_kernel(const __grid_constant__ Params p) {
  using Shape = FewShape<T, LANES, PIECES>;
  constexpr int kNumbers = Vector<T>::kNumbers, kQuads = kNumbers / 4;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* buffer = reinterpret_cast<TopBuffer<kFewBuffer>*>(memory);  // [ROWS]
  auto* query = reinterpret_cast<float4*>(buffer + ROWS);           // [ROWS][PIECES][kQuads][LANES]: lanes read side by side
  __shared__ int64_t seen[ROWS];
  const int lane = threadIdx.x % LANES, slot = threadIdx.x / LANES;
  const int64_t group_rows = p.shared ? p.batch * p.rows : p.rows, blocks_of_rows = (group_rows + ROWS - 1) / ROWS;
  const int64_t group = blockIdx.y / blocks_of_rows, first_row = blockIdx.y % blocks_of_rows * ROWS;
  const int have = static_cast<int>(group_rows - first_row < ROWS ? group_rows - first_row : ROWS);

  for (int i = threadIdx.x; i < ROWS * Shape::kWidth; i += kFewThreads) {
    const int r = i / Shape::kWidth, x = i % Shape::kWidth;
    float value = 0;
    if (r < have && x < p.width) {
      const Row row = row_of(p, group, first_row + r);
      const int64_t at = row.b * p.query_batch_stride + row.t * p.query_row_stride + row.q * p.query_head_stride + x;
      value = p.query_type == Type::kFloat ? static_cast<const float*>(p.query)[at]
                                           : __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(p.query)[at]) << 16);
    }
    const int vector = x / kNumbers, piece = vector / LANES, quad = x % kNumbers / 4;
    reinterpret_cast<float*>(query)[(((r * PIECES + piece) * kQuads + quad) * LANES + vector % LANES) * 4 + x % 4] = value;
  }
  if (threadIdx.x < ROWS) {
    seen[threadIdx.x] = static_cast<int>(threadIdx.x) < have ? visible(p, row_of(p, group, first_row + threadIdx.x).t) : 0;
    buffer[threadIdx.x].clear();
  }
  __syncthreads();
  int64_t reach = 0;
  for (int r = 0; r < ROWS; ++r) reach = seen[r] > reach ? seen[r] : reach;
  const Row first = row_of(p, group, first_row);
  const int limit_keys = gather_limit(static_cast<int>(p.n));

  for (int64_t tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
    int page = 0;  // the last one that begins at or before the tile
    for (int low = 1, high = p.page_count; low < high;) {
      const int middle = (low + high) / 2;
      if (p.pages[middle].first_tile <= tile) {
        page = middle;
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    const Page& from = p.pages[page];
    const int64_t local = (tile - from.first_tile) * Shape::kTile + slot;
    const int64_t limit = reach - from.begin < from.count ? reach - from.begin : from.count;
    if ((tile - from.first_tile) * Shape::kTile >= limit) continue;  // the same for the whole block
    const char* base =
        static_cast<const char*>(from.data) + (first.b * from.batch_stride + first.q * from.head_stride) * (kVectorBytes / kNumbers);
    uint4 x[Shape::kAtOnce][PIECES];
#pragma unroll
    for (int u = 0; u < Shape::kAtOnce; ++u) {
      const int64_t i = local + u * Shape::kStep;
#pragma unroll
      for (int piece = 0; piece < PIECES; ++piece) {
        const int vector = piece * LANES + lane;
        x[u][piece] = i < limit && vector * kNumbers < p.width
                          ? load_once(base + i * from.chunk_stride * (kVectorBytes / kNumbers) + vector * kVectorBytes)
                          : make_uint4(0, 0, 0, 0);
      }
    }
    float sum[Shape::kAtOnce][ROWS] = {};
#pragma unroll
    for (int piece = 0; piece < PIECES; ++piece) {
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (int quad = 0; quad < kQuads; ++quad) {
          const float4 q = query[((r * PIECES + piece) * kQuads + quad) * LANES + lane];
#pragma unroll
          for (int u = 0; u < Shape::kAtOnce; ++u) {
            sum[u][r] += q.x * Vector<T>::get(x[u][piece], 4 * quad) + q.y * Vector<T>::get(x[u][piece], 4 * quad + 1) +
                         q.z * Vector<T>::get(x[u][piece], 4 * quad + 2) + q.w * Vector<T>::get(x[u][piece], 4 * quad + 3);
          }
        }
      }
    }
    bool full = false;
    const int r = lane / (LANES / ROWS);
#pragma unroll
    for (int u = 0; u < Shape::kAtOnce; ++u) {
      const float score = sum_over<ROWS, LANES>(sum[u]) * p.scale;  // scaled last, so that equal sums stay ties
      const int64_t number = from.begin + local + u * Shape::kStep;
      if (lane % (LANES / ROWS) == 0 && local + u * Shape::kStep < limit && number < seen[r]) {
        const uint64_t key = make_key(score, number);
        if (key > buffer[r].bar) full = buffer[r].push(key, limit_keys) || full;
      }
    }
    if (__syncthreads_or(full)) {
      cut_all(buffer, ROWS, static_cast<int>(p.n), limit_keys);
      __syncthreads();
    }
  }
  __syncthreads();
  finish_few(p, buffer, group, first_row, have);
}

template <typename T, int LANES, int PIECES, int ROWS>
cudaError_t launch_few(const Params& p, cudaStream_t stream) {
  using Shape = FewShape<T, LANES, PIECES>;
  static_assert(ROWS <= LANES && kMostChosen + kFewTile <= kFewBuffer && Shape::kTile <= kFewTile);
  const auto kernel = few_rows_kernel<T, LANES, PIECES, ROWS>;
  constexpr int kBytes = ROWS * (static_cast<int>(sizeof(TopBuffer<kFewBuffer>)) + Shape::kWidth * static_cast<int>(sizeof(float)));
  if (const cudaError_t error = allow_shared(kernel, kBytes); error != cudaSuccess) return error;
  const int64_t group_rows = p.shared ? p.batch * p.rows : p.rows, groups = p.shared ? p.heads : p.batch * p.heads;
  const dim3 grid(static_cast<unsigned>(p.launch_parts), static_cast<unsigned>(groups * ((group_rows + ROWS - 1) / ROWS)));
  kernel<<<grid, kFewThreads, kBytes, stream>>>(p);
  return cudaGetLastError();
}

template <typename T, int LANES, int PIECES>
cudaError_t launch_rows(const Params& p, cudaStream_t stream) {
  const int64_t group_rows = p.shared ? p.batch * p.rows : p.rows;
  if (group_rows == 1) return launch_few<T, LANES, PIECES, 1>(p, stream);
  if (group_rows <= 4) return launch_few<T, LANES, PIECES, 4>(p, stream);
  return launch_few<T, LANES, PIECES, kFewRows>(p, stream);
}

// Narrow rows share a warp; wide ones give each lane several vectors. f(FewShape) for the smallest shape that holds `width` numbers.
template <typename T, typename F>
auto with_shape(int64_t width, F f) {
  if (width <= FewShape<T, 8, 1>::kWidth) return f(FewShape<T, 8, 1>());
  if (width <= FewShape<T, 32, 1>::kWidth) return f(FewShape<T, 32, 1>());
  if (width <= FewShape<T, 32, 2>::kWidth) return f(FewShape<T, 32, 2>());
  if (width <= FewShape<T, 32, 4>::kWidth) return f(FewShape<T, 32, 4>());
  return f(FewShape<T, 32, 8>());
}

template <typename T, int LANES, int PIECES>
cudaError_t launch_shape(FewShape<T, LANES, PIECES>, const Params& p, cudaStream_t stream) {
  return launch_rows<T, LANES, PIECES>(p, stream);
}

cudaError_t launch_few_rows_fp32(const Params& p, cudaStream_t stream);
cudaError_t launch_few_rows_bf16(const Params& p, cudaStream_t stream);
constexpr int64_t kTensorTile = 128;

}  // namespace cairn::select_cuda
