// The forward in union order, and the question whether it is the better order for a selection.
#include "cairn/ops/hsa/cuda/union_forward.cuh"

namespace cairn::hsa_cuda {
namespace {

constexpr int kTableWords = 48 * 1024;  // of all warps' tables
constexpr int kMostSamples = 32;        // thread block's warps

// Counts, for the tokens of some thread blocks evenly over the text, how many different chunks they chose: a warp a thread block, by a
// table of its own.
__global__ void __launch_bounds__(kMostSamples * 32) sharing_kernel(const Params p, int tokens, int table, int* in_union_order) {
  extern __shared__ uint32_t tables[];
  __shared__ int chosen, different;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32,
            samples = static_cast<int>(blockDim.x) / 32;
  if (threadIdx.x == 0) chosen = different = 0;
  uint32_t* const words = tables + warp * table;
  for (int i = lane; i < table; i += 32) words[i] = 0xffffffffu;
  __syncthreads();
  const int64_t tiles = (p.L + tokens - 1) / tokens * p.B * p.Gi, tile = (2 * warp + 1) * tiles / (2 * samples);
  const int64_t gi = tile % p.Gi, b = tile / p.Gi % p.B, first = tile / p.Gi / p.B * tokens;
  int pairs = 0, inserted = 0;
  for (int e = lane; e < tokens * static_cast<int>(p.N); e += 32) {
    const int64_t token = first + e / p.N;
    const int64_t chunk = token < p.L ? p.index[((b * p.L + token) * p.Gi + gi) * p.N + e % p.N] : -1;
    if (chunk < 0 || chunk >= p.C) continue;
    ++pairs;
    const uint32_t word = static_cast<uint32_t>(chunk);
    for (uint32_t at = word * 2654435761u >> 8;; ++at) {
      const uint32_t before = atomicCAS(words + (at & static_cast<uint32_t>(table - 1)), 0xffffffffu, word);
      if (before == 0xffffffffu) ++inserted;
      if (before == 0xffffffffu || before == word) break;
    }
  }
  atomicAdd(&chosen, pairs), atomicAdd(&different, inserted);
  __syncthreads();
  if (threadIdx.x == 0) *in_union_order = static_cast<float>(chosen) >= kUnionSharing * static_cast<float>(different) ? 1 : 0;
}

}  // namespace

cudaError_t launch_sharing(const Params& p, int* in_union_order, cudaStream_t stream) {
  const int tokens = union_tokens(p.D, p.R);
  int table = 64;
  while (table < 2 * tokens * p.N) table *= 2;
  const int samples = kTableWords / table < kMostSamples ? kTableWords / table : kMostSamples;
  const int bytes = samples * table * 4;
  const cudaError_t error = cudaFuncSetAttribute(sharing_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  sharing_kernel<<<1, samples * 32, static_cast<size_t>(bytes), stream>>>(p, tokens, table, in_union_order);
  return cudaGetLastError();
}

cudaError_t launch_union_forward(const Params& p, int processors, cudaStream_t stream) {
  switch (p.D) {
    case 32:
      return launch_union_forward<32>(p, processors, stream);
    case 64:
      return launch_union_forward<64>(p, processors, stream);
    case 96:
      return launch_union_forward<96>(p, processors, stream);
    default:
      return launch_union_forward<128>(p, processors, stream);
  }
}

}  // namespace cairn::hsa_cuda
