// The selection turned round: the pairs of every block of rows, sorted by chunk; and what surrounds the main kernels.
#include <cub/device/device_radix_sort.cuh>

#include "cairn/ops/hsa/cuda/launch.h"
#include "cairn/ops/hsa/cuda/tile.cuh"

namespace cairn::hsa_cuda {
namespace {

constexpr int kGridThreads = 256;

int blocks_for(int64_t threads) { return static_cast<int>((threads + kGridThreads - 1) / kGridThreads); }

__global__ void keys_kernel(const Params p, uint32_t* keys, uint32_t* values, uint32_t* counters, uint32_t counter_words) {
  const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x, all = static_cast<uint32_t>(p.B * p.L * p.Gi * p.N);
  if (at < counter_words) counters[at] = 0;
  if (at >= all) return;
  const int64_t chunk = p.index[at];
  const uint32_t row_and_group = at / static_cast<uint32_t>(p.N), gi = row_and_group % static_cast<uint32_t>(p.Gi);
  const uint32_t row = row_and_group / static_cast<uint32_t>(p.Gi), b = row / static_cast<uint32_t>(p.L);
  const uint32_t unused = static_cast<uint32_t>(p.B * p.Gi * p.C), block = row / static_cast<uint32_t>(p.block_rows);
  const bool used = chunk >= 0 && chunk < p.C;
  const uint32_t key = used ? (b * static_cast<uint32_t>(p.Gi) + gi) * static_cast<uint32_t>(p.C) + static_cast<uint32_t>(chunk) : unused;
  keys[at] = block * (unused + 1) + key;
  values[at] = at;
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

// starts[block, key] = place of the first pair of the block whose key is not smaller, for keys of chunks.
__global__ void starts_kernel(const Params p, unsigned int* starts) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, keys = p.B * p.Gi * p.C;
  if (at >= p.blocks * keys) return;
  const int64_t block = at / keys, block_pairs = p.block_rows * p.Gi * p.N, all = p.B * p.L * p.Gi * p.N;
  const uint32_t key = static_cast<uint32_t>(block * (keys + 1) + at % keys);
  int64_t low = block * block_pairs, high = min(low + block_pairs, all);
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (p.keys[middle] < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  starts[at] = static_cast<unsigned int>(low);
}

// before[block, key] = pairs of the chunk in earlier blocks - place of its first pair in this block (modulo 2^32).
__global__ void before_kernel(const Params p, const unsigned int* starts, unsigned int* before) {
  const int64_t key = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, keys = p.B * p.Gi * p.C;
  if (key >= keys) return;
  unsigned int count = 0;
  for (int64_t block = 0; block < p.blocks; ++block) {
    const unsigned int start = starts[block * keys + key];
    before[block * keys + key] = count - start;
    const int64_t block_pairs = p.block_rows * p.Gi * p.N, all = p.B * p.L * p.Gi * p.N;
    unsigned int end;
    if (key + 1 < keys) {
      end = starts[block * keys + key + 1];
    } else {  // unused slots follow
      int64_t low = start, high = min((block + 1) * block_pairs, all);
      const uint32_t last = static_cast<uint32_t>(block * (keys + 1) + keys);
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (p.keys[middle] < last) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      end = static_cast<unsigned int>(low);
    }
    count += end - start;
  }
}

__global__ void finish_keys_kernel(const Params p, int64_t M, __nv_bfloat16* dk, __nv_bfloat16* dv) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, pieces = p.D / 4;
  if (at >= p.B * M * p.G * pieces) return;
  const int64_t d = at % pieces * 4, g = at / pieces % p.G, m = at / pieces / p.G % M, b = at / pieces / p.G / M;
  uint2 k = make_uint2(0, 0), v = make_uint2(0, 0);
  if (m < p.C * p.S) {
    const int64_t row = ((b * p.G + g) * p.C * p.S + m) * p.D, left = row + fragment_column(d), right = row + fragment_column(d + 2);
    k = make_uint2(pack_bf16(p.dk[left] * p.scale, p.dk[left + 1] * p.scale), pack_bf16(p.dk[right] * p.scale, p.dk[right + 1] * p.scale));
    v = make_uint2(pack_bf16(p.dv[left], p.dv[left + 1]), pack_bf16(p.dv[right], p.dv[right + 1]));
  }
  const int64_t to = ((b * M + m) * p.G + g) * p.D + d;
  *reinterpret_cast<uint2*>(dk + to) = k;
  *reinterpret_cast<uint2*>(dv + to) = v;
}

}  // namespace

bool runs_here() {
  cudaFuncAttributes attributes{};
  int device = 0, major = 0;
  const bool known = cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major == 9 &&
                     cudaFuncGetAttributes(&attributes, keys_kernel) == cudaSuccess;
  if (!known) cudaGetLastError();  // not an error of later calls
  return known && attributes.ptxVersion >= 90;
}

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

cudaError_t launch_turns(const Params& p, unsigned int* before, unsigned int* starts, cudaStream_t stream) {
  const int64_t keys = p.B * p.Gi * p.C;
  starts_kernel<<<blocks_for(p.blocks * keys), kGridThreads, 0, stream>>>(p, starts);
  before_kernel<<<blocks_for(keys), kGridThreads, 0, stream>>>(p, starts, before);
  return cudaGetLastError();
}

cudaError_t launch_finish_keys(const Params& p, int64_t M, void* dk, void* dv, cudaStream_t stream) {
  const int64_t threads = p.B * M * p.G * p.D / 4;
  if (threads == 0) return cudaSuccess;
  finish_keys_kernel<<<blocks_for(threads), kGridThreads, 0, stream>>>(p, M, static_cast<__nv_bfloat16*>(dk),
                                                                       static_cast<__nv_bfloat16*>(dv));
  return cudaGetLastError();
}

}  // namespace cairn::hsa_cuda
