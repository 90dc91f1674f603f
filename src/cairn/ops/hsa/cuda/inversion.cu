// The selection turned round: the pairs of every block of rows, sorted by chunk; and what surrounds the main kernels.
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include "cairn/ops/hsa/cuda/launch.h"
#include "cairn/ops/hsa/cuda/tile.cuh"

namespace cairn::hsa_cuda {
namespace {

constexpr int kGridThreads = 256;

int blocks_for(int64_t threads) { return static_cast<int>((threads + kGridThreads - 1) / kGridThreads); }

// The sort key of a pair (see Params).
__device__ uint32_t key_of(const Params& p, uint32_t at) {
  const int64_t chunk = p.index[at];
  const uint32_t row_and_group = at / static_cast<uint32_t>(p.N), gi = row_and_group % static_cast<uint32_t>(p.Gi);
  const uint32_t row = row_and_group / static_cast<uint32_t>(p.Gi), b = row / static_cast<uint32_t>(p.L);
  const uint32_t unused = static_cast<uint32_t>(p.B * p.Gi * p.C), block = row / static_cast<uint32_t>(p.block_rows);
  const bool used = chunk >= 0 && chunk < p.C;
  const uint32_t key = used ? (b * static_cast<uint32_t>(p.Gi) + gi) * static_cast<uint32_t>(p.C) + static_cast<uint32_t>(chunk) : unused;
  return block * (unused + 1) + key;
}

__global__ void keys_kernel(const Params p, uint32_t* keys, uint32_t* values, uint32_t* counters, uint32_t counter_words) {
  const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x, all = static_cast<uint32_t>(p.B * p.L * p.Gi * p.N);
  if (at < counter_words) counters[at] = 0;
  if (at >= all) return;
  keys[at] = key_of(p, at), values[at] = at;
}

__device__ bool in_union_order(const Params& p) { return p.in_union_order != nullptr && *p.in_union_order != 0; }

// Counting sort of every block's pairs by pieces of kPiecePairs: counts [block][key of the block][piece], their running sum, places.
constexpr int kPiecePairs = 4096, kPieceThreads = 512;

__device__ inline int64_t piece_pairs(const Params& p, int64_t pieces, int64_t* first) {
  const int64_t block_pairs = p.block_rows * p.Gi * p.N, block = blockIdx.x / pieces, from = blockIdx.x % pieces * kPiecePairs;
  *first = block * block_pairs + from;
  return min(min(block_pairs - from, p.B * p.L * p.Gi * p.N - *first), static_cast<int64_t>(kPiecePairs));
}

__global__ void __launch_bounds__(kPieceThreads) count_kernel(const Params p, int pieces, uint32_t* counts) {
  extern __shared__ uint32_t of_key[];
  if (in_union_order(p)) return;
  const uint32_t keys = static_cast<uint32_t>(p.B * p.Gi * p.C + 1), block = blockIdx.x / static_cast<uint32_t>(pieces);
  for (uint32_t i = threadIdx.x; i < keys; i += kPieceThreads) of_key[i] = 0;
  __syncthreads();
  int64_t first;
  const int64_t count = piece_pairs(p, pieces, &first);
  for (int64_t i = threadIdx.x; i < count; i += kPieceThreads) {
    atomicAdd(of_key + (key_of(p, static_cast<uint32_t>(first + i)) - block * keys), 1u);
  }
  __syncthreads();
  uint32_t* to = counts + static_cast<int64_t>(block) * keys * pieces + blockIdx.x % static_cast<uint32_t>(pieces);
  for (uint32_t i = threadIdx.x; i < keys; i += kPieceThreads) to[static_cast<int64_t>(i) * pieces] = of_key[i];
}

__global__ void __launch_bounds__(kPieceThreads)
    scatter_kernel(const Params p, int pieces, const uint32_t* places, uint32_t* sorted_keys, uint32_t* pairs) {
  extern __shared__ uint32_t of_key[];
  if (in_union_order(p)) return;
  const uint32_t keys = static_cast<uint32_t>(p.B * p.Gi * p.C + 1), block = blockIdx.x / static_cast<uint32_t>(pieces);
  const uint32_t* from = places + static_cast<int64_t>(block) * keys * pieces + blockIdx.x % static_cast<uint32_t>(pieces);
  for (uint32_t i = threadIdx.x; i < keys; i += kPieceThreads) of_key[i] = from[static_cast<int64_t>(i) * pieces];
  __syncthreads();
  int64_t first;
  const int64_t count = piece_pairs(p, pieces, &first);
  for (int64_t i = threadIdx.x; i < count; i += kPieceThreads) {
    const uint32_t pair = static_cast<uint32_t>(first + i), key = key_of(p, pair), place = atomicAdd(of_key + (key - block * keys), 1u);
    sorted_keys[place] = key, pairs[place] = pair;
  }
}

int bits_of(uint32_t most) {
  int bits = 1;
  while (bits < 32 && most >> bits != 0) ++bits;
  return bits;
}

cudaError_t sort(void* workspace, size_t* bytes, cub::DoubleBuffer<uint32_t>& keys, cub::DoubleBuffer<uint32_t>& values, int64_t pairs,
                 uint32_t most_key, cudaStream_t stream) {
  return cub::DeviceRadixSort::SortPairs(workspace, *bytes, keys, values, static_cast<int>(pairs), 0, bits_of(most_key), stream);
}

uint32_t most_key(const Params& p) { return static_cast<uint32_t>(p.blocks * (p.B * p.Gi * p.C + 1) - 1); }

// First place in [low, high) of the sorted keys that does not hold less than `key`, or high.
__device__ int64_t first_not_below(const Params& p, uint32_t key, int64_t low, int64_t high) {
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (p.keys[middle] < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

__global__ void starts_kernel(const Params p, unsigned int* starts) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, keys = p.B * p.Gi * p.C + 1;
  if (at >= p.blocks * keys) return;
  const int64_t block_pairs = p.block_rows * p.Gi * p.N, first = at / keys * block_pairs;
  const int64_t end = min(first + block_pairs, p.B * p.L * p.Gi * p.N);
  starts[at] = static_cast<unsigned int>(first_not_below(p, static_cast<uint32_t>(at), first, end));
}

// before[block, key, copy] = pairs of the chunk in the slices of earlier blocks that belong to the copy.
__global__ void before_kernel(const Params p, unsigned int* before) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, keys = p.B * p.Gi * p.C, key = at / kCopies;
  const unsigned int copy = static_cast<unsigned int>(at % kCopies), T = static_cast<unsigned int>(p.item_pairs);
  if (key >= keys) return;
  const unsigned int block_pairs = static_cast<unsigned int>(p.block_rows * p.Gi * p.N);
  unsigned int count = 0;
  for (int64_t block = 0; block < p.blocks; ++block) {
    before[(block * keys + key) * kCopies + copy] = count;
    const unsigned int* starts = p.starts + block * (keys + 1) + key;
    const unsigned int first = static_cast<unsigned int>(block) * block_pairs, start = starts[0] - first, end = starts[1] - first;
    for (unsigned int slice = start / T + (copy + kCopies - start / T % kCopies) % kCopies; slice * T < end; slice += kCopies) {
      count += min(end, (slice + 1) * T) - max(start, slice * T);
    }
  }
}

__global__ void finish_keys_kernel(const Params p, int64_t M, __nv_bfloat16* dk, __nv_bfloat16* dv) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, pieces = p.D / 4;
  if (at >= p.B * M * p.G * pieces) return;
  const int64_t d = at % pieces * 4, g = at / pieces % p.G, m = at / pieces / p.G % M, b = at / pieces / p.G / M;
  uint2 k = make_uint2(0, 0), v = make_uint2(0, 0);
  if (m < p.C * p.S) {
    const int64_t row = ((b * p.G + g) * p.C * p.S + m) * p.D, left = row + fragment_column(d), right = row + fragment_column(d + 2);
    float sum[8] = {};
    for (int copy = 0; copy < (p.turn != nullptr ? kCopies : 1); ++copy) {
      const int64_t skip = copy * p.copy_step;
      const float2 parts[4] = {*reinterpret_cast<const float2*>(p.dk + left + skip), *reinterpret_cast<const float2*>(p.dk + right + skip),
                               *reinterpret_cast<const float2*>(p.dv + left + skip), *reinterpret_cast<const float2*>(p.dv + right + skip)};
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[2 * i] += parts[i].x, sum[2 * i + 1] += parts[i].y;
    }
    k = make_uint2(pack_bf16(sum[0], sum[1]), pack_bf16(sum[2], sum[3]));
    v = make_uint2(pack_bf16(sum[4], sum[5]), pack_bf16(sum[6], sum[7]));
  }
  const int64_t to = ((b * M + m) * p.G + g) * p.D + d;
  *reinterpret_cast<uint2*>(dk + to) = k;
  *reinterpret_cast<uint2*>(dv + to) = v;
}

// The sums of the runs of every chunk, in the order of the sorted lists. A thread does 4 numbers, of dk or of dv, that lie together.
__global__ void finish_runs_kernel(const Params p, int64_t M, __nv_bfloat16* dk, __nv_bfloat16* dv) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, pieces = p.D / 4;
  if (at >= 2 * p.B * M * p.G * pieces) return;
  const int64_t piece = at % pieces, g = at / pieces % p.G, m = at / pieces / p.G % M, b = at / pieces / p.G / M % p.B;
  const int tensor = static_cast<int>(at / pieces / p.G / M / p.B);
  float4 sum = make_float4(0, 0, 0, 0);
  if (m < p.C * p.S) {
    const int64_t own = m % p.S / kKeyBlock, keys = p.B * p.Gi * p.C, slices = p.main_items / p.fan;
    const int64_t key = (b * p.Gi + (p.Gi == 1 ? 0 : g)) * p.C + m / p.S, part = (p.Gi == 1 ? g * p.own_blocks : 0) + own;
    const int64_t number = (tensor * kKeyBlock + m % p.S % kKeyBlock) * p.D + piece * 4, step = p.fan * 2 * kKeyBlock * p.D;
    for (int64_t block = 0; block < p.blocks; ++block) {
      const unsigned int* starts = p.starts + block * (keys + 1) + key;
      const int64_t first = block * p.block_rows * p.Gi * p.N, start = starts[0] - first, end = starts[1] - first;
      if (start == end) continue;
      const int64_t from = start / p.item_pairs, count = (end - 1) / p.item_pairs - from + 1;
      const float* x = p.runs + ((block * (slices + keys) + from + key) * p.fan + part) * (2 * kKeyBlock * p.D) + number;
#pragma unroll 8
      for (int64_t i = 0; i < count; ++i) {
        const float4 y = __ldcs(reinterpret_cast<const float4*>(x + i * step));
        sum.x += y.x, sum.y += y.y, sum.z += y.z, sum.w += y.w;
      }
    }
  }
  const int64_t column = piece / 4 * 16 + piece % 4 * 2;  // see fragment_column
  uint32_t* to = reinterpret_cast<uint32_t*>((tensor == 0 ? dk : dv) + ((b * M + m) * p.G + g) * p.D + column);
  to[0] = pack_bf16(sum.x, sum.y), to[4] = pack_bf16(sum.z, sum.w);
}

}  // namespace

size_t inversion_workspace_bytes(int64_t pairs) {
  cub::DoubleBuffer<uint32_t> none(nullptr, nullptr);
  size_t bytes = 0;
  sort(nullptr, &bytes, none, none, pairs, ~uint32_t{0}, nullptr);
  return bytes;
}

cudaError_t launch_inversion(Params* p, uint32_t* keys, uint32_t* values, void* workspace, size_t workspace_bytes, void* counters,
                             size_t counter_bytes, cudaStream_t stream) {
  const int64_t pairs = p->B * p->L * p->Gi * p->N, words = static_cast<int64_t>(counter_bytes / 4);
  keys_kernel<<<blocks_for(pairs > words ? pairs : words), kGridThreads, 0, stream>>>(*p, keys, values, static_cast<uint32_t*>(counters),
                                                                                      static_cast<uint32_t>(words));
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  cub::DoubleBuffer<uint32_t> key_buffers(keys, keys + pairs), value_buffers(values, values + pairs);
  error = sort(workspace, &workspace_bytes, key_buffers, value_buffers, pairs, most_key(*p), stream);
  p->keys = key_buffers.Current(), p->pairs = value_buffers.Current();
  return error;
}

namespace {
int64_t pieces_of(const Params& p) { return (p.block_rows * p.Gi * p.N + kPiecePairs - 1) / kPiecePairs; }
int64_t counts_of(const Params& p) { return p.blocks * (p.B * p.Gi * p.C + 1) * pieces_of(p); }
int64_t rounded(int64_t words) { return (words + 63) / 64 * 64; }
cudaError_t scan(void* workspace, size_t* bytes, uint32_t* counts, int64_t all, cudaStream_t stream) {
  return cub::DeviceScan::ExclusiveSum(workspace, *bytes, counts, counts, all, stream);
}
}  // namespace

bool counting_fits(const Params& p) { return p.B * p.Gi * p.C + 1 <= 8192 && p.blocks * pieces_of(p) < int64_t{1} << 31; }

size_t counting_workspace_bytes(const Params& p) {
  size_t bytes = 0;
  scan(nullptr, &bytes, nullptr, counts_of(p), nullptr);
  return static_cast<size_t>(rounded(counts_of(p)) * 4) + bytes;
}

cudaError_t launch_counting_inversion(Params* p, uint32_t* keys, uint32_t* pairs, void* workspace, size_t workspace_bytes, void* counters,
                                      size_t counter_bytes, cudaStream_t stream) {
  const int64_t all = counts_of(*p), table = rounded(all) * 4;
  const int pieces = static_cast<int>(pieces_of(*p)), shared = static_cast<int>((p->B * p->Gi * p->C + 1) * 4);
  const unsigned int grid = static_cast<unsigned int>(p->blocks * pieces);
  uint32_t* counts = static_cast<uint32_t*>(workspace);
  size_t scan_bytes = workspace_bytes - static_cast<size_t>(table);
  cudaError_t error = cudaMemsetAsync(counters, 0, counter_bytes, stream);
  if (error != cudaSuccess) return error;
  count_kernel<<<grid, kPieceThreads, static_cast<size_t>(shared), stream>>>(*p, pieces, counts);
  error = scan(static_cast<char*>(workspace) + table, &scan_bytes, counts, all, stream);
  if (error != cudaSuccess) return error;
  scatter_kernel<<<grid, kPieceThreads, static_cast<size_t>(shared), stream>>>(*p, pieces, counts, keys, pairs);
  p->keys = keys, p->pairs = pairs;
  return cudaGetLastError();
}

cudaError_t launch_starts(Params* p, unsigned int* starts, unsigned int* before, cudaStream_t stream) {
  const int64_t keys = p->B * p->Gi * p->C;
  starts_kernel<<<blocks_for(p->blocks * (keys + 1)), kGridThreads, 0, stream>>>(*p, starts);
  p->starts = starts;
  if (before != nullptr) before_kernel<<<blocks_for(keys * kCopies), kGridThreads, 0, stream>>>(*p, before);
  p->before = before;
  return cudaGetLastError();
}

cudaError_t launch_finish_keys(const Params& p, int64_t M, void* dk, void* dv, cudaStream_t stream) {
  const int64_t threads = p.B * M * p.G * p.D / 4;
  if (threads == 0) return cudaSuccess;
  if (p.runs != nullptr) {
    finish_runs_kernel<<<blocks_for(2 * threads), kGridThreads, 0, stream>>>(p, M, static_cast<__nv_bfloat16*>(dk),
                                                                             static_cast<__nv_bfloat16*>(dv));
    return cudaGetLastError();
  }
  finish_keys_kernel<<<blocks_for(threads), kGridThreads, 0, stream>>>(p, M, static_cast<__nv_bfloat16*>(dk),
                                                                       static_cast<__nv_bfloat16*>(dv));
  return cudaGetLastError();
}

}  // namespace cairn::hsa_cuda
