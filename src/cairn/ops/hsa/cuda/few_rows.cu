// Memory attention forward for few rows of queries, as in decoding: one thread block a (row, K/V head, 16 heads of the group), one warp a
// slot at a time, nothing inverted, no partial results in memory. Every pair fetches its keys and values, which is all that there is to do
// where hardly two rows share a chunk. Tensor cores by mma.sync (PTX ISA 9.7.14.5).
#include "cairn/ops/hsa/cuda/launch.h"
#include "cairn/ops/hsa/cuda/mma.cuh"
#include "cairn/ops/hsa/cuda/tile.cuh"

namespace cairn::hsa_cuda {
namespace {

constexpr int kKeys = 32;  // of a chunk that a warp takes at a time

template <int kD>
struct FewRows {
  static constexpr int kWarps = kD <= 64 ? 8 : 4, kPitch = kD * 2 + 16;  // bytes of a row in shared memory: no bank twice
  static constexpr int kBlock = 2 * kKeys * kPitch;                      // k and v of kKeys keys
  static constexpr int kBytes = kWarps * 2 * kBlock;
};

__device__ inline void copy_16(uint32_t to, const void* from, bool valid) {
  const int bytes = valid ? 16 : 0;  // the rest is filled with zeros
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int kPending>
__device__ inline void copy_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

template <int kD>
__global__ void __launch_bounds__(FewRows<kD>::kWarps * 32) few_rows_kernel(const __grid_constant__ Params p) {
  using Shape = FewRows<kD>;
  constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;
  extern __shared__ __align__(16) uint8_t raw[];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, c = lane % 4;
  const int R = p.R, tiles = (R + 15) / 16, S = static_cast<int>(p.S), blocks = (S + kKeys - 1) / kKeys;
  const int64_t tile = blockIdx.x % tiles, g = blockIdx.x / tiles % p.G, row = blockIdx.x / tiles / p.G, b = row / p.L, t = row - b * p.L;
  const int64_t gi = p.Gi == 1 ? 0 : g;
  const int64_t* index = p.index + (row * p.Gi + gi) * p.N;
  const uint32_t buffer = shared_address(raw) + static_cast<uint32_t>(warp * 2 * Shape::kBlock);

  int head[2];  // of all; -1: the group has no such head
  uint32_t q[kD / 16][4];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int in_group = static_cast<int>(tile) * 16 + lane / 4 + 8 * i;
    head[i] = in_group < R ? static_cast<int>(g) * R + in_group : -1;
    const uint32_t* from = reinterpret_cast<const uint32_t*>(static_cast<const __nv_bfloat16*>(p.q.data) + b * p.q.batch + t * p.q.token +
                                                             max(head[i], 0) * p.q.head);
#pragma unroll
    for (int j = 0; j < kD / 16; ++j) {
      q[j][i] = head[i] < 0 ? 0 : from[8 * j + c];
      q[j][2 + i] = head[i] < 0 ? 0 : from[8 * j + 4 + c];
    }
  }

  // Walks the warp's slots that are used, 32 keys at a time, fetching one step ahead.
  const int N = static_cast<int>(p.N);
  const auto used_from = [&](int slot) {
    while (slot < N && (index[slot] < 0 || index[slot] >= p.C)) slot += Shape::kWarps;
    return slot;
  };
  const auto fetch = [&](int slot, int block, int stage) {
    if (slot < N) {
      const __nv_bfloat16* k = static_cast<const __nv_bfloat16*>(p.k.data) + b * p.k.batch + g * p.k.head;
      const __nv_bfloat16* v = static_cast<const __nv_bfloat16*>(p.v.data) + b * p.v.batch + g * p.v.head;
      const int64_t first = index[slot] * S + block * kKeys;
      for (int i = lane; i < kKeys * kD / 8; i += 32) {
        const int key = i / (kD / 8), column = i % (kD / 8) * 8;
        const bool valid = block * kKeys + key < S;
        const int64_t token = valid ? first + key : 0;
        const uint32_t to = buffer + static_cast<uint32_t>(stage * Shape::kBlock + key * Shape::kPitch + column * 2);
        copy_16(to, k + token * p.k.token + column, valid);
        copy_16(to + kKeys * Shape::kPitch, v + token * p.v.token + column, valid);
      }
    }
    copy_commit();
  };

  float o[kD / 8][4] = {}, part[kD / 8][4] = {}, top[2], sum[2];
  int slot = used_from(warp), block = 0, stage = 0;
  fetch(slot, 0, 0);
  while (slot < N) {
    const int next_block = block + 1 < blocks ? block + 1 : 0, next_slot = next_block != 0 ? slot : used_from(slot + Shape::kWarps);
    __syncwarp();
    fetch(next_slot, next_block, stage ^ 1);
    copy_wait<1>();
    __syncwarp();
    if (block == 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) top[i] = p.off_by_one ? 0.0f : -INFINITY, sum[i] = 0;
#pragma unroll
      for (int j = 0; j < kD / 8; ++j) part[j][0] = part[j][1] = part[j][2] = part[j][3] = 0;
    }
    const uint32_t keys = buffer + static_cast<uint32_t>(stage * Shape::kBlock), values = keys + kKeys * Shape::kPitch;
    float s[kKeys / 8][4] = {};
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
#pragma unroll
      for (int j = 0; j < kD / 16; ++j) {
        uint32_t x[4];
        load_matrices(x,
                      keys + static_cast<uint32_t>((n * 16 + lane / 16 * 8 + lane % 8) * Shape::kPitch + (j * 16 + lane / 8 % 2 * 8) * 2));
        multiply(s[2 * n], q[j], x);
        multiply(s[2 * n + 1], q[j], x + 2);
      }
    }
    uint32_t probabilities[kKeys / 16][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float m = -INFINITY;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[n][2 * i + e];
          x = block * kKeys + 8 * n + 2 * c + e < S ? x * (p.scale * kLog2e) : -INFINITY;
          m = fmaxf(m, x);
        }
      }
      m = fmaxf(top[i], row_max(m));
      const float shrink = exp2_fast(top[i] - m);
      top[i] = m, sum[i] *= shrink;
#pragma unroll
      for (int j = 0; j < kD / 8; ++j) part[j][2 * i] *= shrink, part[j][2 * i + 1] *= shrink;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        const float x = exp2_fast(s[n][2 * i] - m), y = exp2_fast(s[n][2 * i + 1] - m);
        sum[i] += x + y;
        probabilities[n / 2][n % 2 * 2 + i] = pack_bf16(x, y);
      }
    }
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
#pragma unroll
      for (int j = 0; j < kD / 16; ++j) {
        uint32_t x[4];
        load_matrices_transposed(x, values + static_cast<uint32_t>((n * 16 + lane % 16) * Shape::kPitch + (j * 16 + lane / 16 * 8) * 2));
        multiply(part[2 * j], probabilities[n], x);
        multiply(part[2 * j + 1], probabilities[n], x + 2);
      }
    }
    if (next_block == 0) {  // the chunk is complete
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float total = row_sum(sum[i]) + (p.off_by_one ? exp2_fast(-top[i]) : 0.0f);
        if (head[i] < 0) continue;
        const int64_t hw = p.Hw == p.H ? head[i] : p.Hw == 1 ? 0 : g;
        const float f = weight_of(p, load_weight(p, (row * p.Hw + hw) * p.N + slot)) / total;
#pragma unroll
        for (int j = 0; j < kD / 8; ++j) o[j][2 * i] += part[j][2 * i] * f, o[j][2 * i + 1] += part[j][2 * i + 1] * f;
        if (p.lse != nullptr && c == 0) p.lse[(row * p.H + head[i]) * p.N + slot] = (top[i] + __log2f(total)) * kLn2;
      }
    }
    slot = next_slot, block = next_block, stage ^= 1;
  }

  // The sum over warps.
  copy_wait<0>();
  __syncthreads();
  float* sums = reinterpret_cast<float*>(raw);  // [warp][16][kD]
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < kD / 8; ++j) {
      float* to = sums + (warp * 16 + lane / 4 + 8 * i) * kD + 8 * j + 2 * c;
      to[0] = o[j][2 * i], to[1] = o[j][2 * i + 1];
    }
  }
  __syncthreads();
  for (int at = static_cast<int>(threadIdx.x); at < 16 * kD / 2; at += Shape::kWarps * 32) {
    const int in_group = static_cast<int>(tile) * 16 + at / (kD / 2), column = at % (kD / 2) * 2;
    if (in_group >= R) continue;
    float x = 0, y = 0;
#pragma unroll
    for (int w = 0; w < Shape::kWarps; ++w) x += sums[w * 16 * kD + 2 * at], y += sums[w * 16 * kD + 2 * at + 1];
    *reinterpret_cast<uint32_t*>(static_cast<__nv_bfloat16*>(p.o) + (row * p.H + g * R + in_group) * kD + column) = pack_bf16(x, y);
  }
}

template <int kD>
cudaError_t launch(const Params& p, cudaStream_t stream) {
  static_assert(FewRows<kD>::kBytes >= FewRows<kD>::kWarps * 16 * kD * 4);
  const cudaError_t error = cudaFuncSetAttribute(few_rows_kernel<kD>, cudaFuncAttributeMaxDynamicSharedMemorySize, FewRows<kD>::kBytes);
  if (error != cudaSuccess) return error;
  const int64_t grid = p.B * p.L * p.G * ((p.R + 15) / 16);
  few_rows_kernel<kD><<<static_cast<unsigned int>(grid), FewRows<kD>::kWarps * 32, FewRows<kD>::kBytes, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_few_rows(const Params& p, cudaStream_t stream) {
  switch (p.D) {
    case 32:
      return launch<32>(p, stream);
    case 64:
      return launch<64>(p, stream);
    case 96:
      return launch<96>(p, stream);
    default:
      return launch<128>(p, stream);
  }
}

}  // namespace cairn::hsa_cuda
