// The choice of chunks while training: scores of all pairs are there, [rows, C] with C at most some hundred. A warp takes a row, makes keys
// of (score + noise, chunk) and takes the largest N times.
#include <cfloat>

#include "cairn/ops/select/keys.cuh"
#include "cairn/ops/select/launch.h"

namespace cairn::select_cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kListRegisters = kMostGivenChosen / 32;  // lane l holds the winners l, l + 32, ...

__device__ inline uint64_t mix(uint64_t x) {  // ops/select/noise.cpp
  x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93ull;
  x = (x ^ (x >> 29)) * 0xA24BAED4963EE407ull;
  return x ^ (x >> 32);
}

constexpr uint64_t kOdd = 0x9E3779B97F4A7C15ull;

__device__ inline uint64_t best_of_warp(uint64_t key) {
  const auto high = static_cast<uint32_t>(key >> 32), most = __reduce_max_sync(kAllLanes, high);
  const uint32_t low = __reduce_max_sync(kAllLanes, high == most ? static_cast<uint32_t>(key) : 0u);
  return static_cast<uint64_t>(most) << 32 | low;
}

// KEYS: chunks a lane.
template <int KEYS>
__global__ void __launch_bounds__(kThreads) given_kernel(const __grid_constant__ GivenParams p) {
  const int lane = threadIdx.x % 32;
  const auto n = static_cast<int>(p.n);
  const int64_t first = p.noise_row + (p.noise_row_more == nullptr ? 0 : *p.noise_row_more);
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; row < p.count;
       row += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int64_t q = row % p.heads, t = row / p.heads % p.rows, b = row / p.heads / p.rows;
    const int64_t bound = p.position + t > 0 ? p.position + t : 0;
    const int64_t reach = bound / p.chunk - p.first_chunk, visible = reach < 0 ? 0 : reach > p.chunks ? p.chunks : reach;
    const float* score = p.score + row * p.chunks;
    uint64_t h = 0;
    if (p.quantiles != nullptr) {
      h = mix(static_cast<uint64_t>(first + b) * kOdd ^ p.noise_key);
      h = mix(h + static_cast<uint64_t>(p.noise_position + t) * kOdd);
      h = mix(h + static_cast<uint64_t>(q) * kOdd);
    }
    uint64_t key[KEYS], best = 0;
#pragma unroll
    for (int k = 0; k < KEYS; ++k) {
      const int i = k * 32 + lane;
      key[k] = 0;
      if (i >= visible) continue;
      float s = score[i];
      if (p.quantiles != nullptr) s += p.quantiles[mix(h + static_cast<uint64_t>(p.first_chunk + i) * kOdd) >> (64 - kNoiseBits)];
      if (s < -FLT_MAX) s = -FLT_MAX;  // as the plain path: what is visible does not tie with what is not
      key[k] = make_key(s, i);
      best = key[k] > best ? key[k] : best;
    }
    // Round by round the warp's best; its lane gives it up and looks for its next.
    uint64_t won[kListRegisters] = {};
    int found = 0;
    for (; found < n; ++found) {
      const uint64_t winner = best_of_warp(best);
      if (winner == 0) break;
      if (lane == found % 32) won[found / 32] = winner;
      if (best != winner) continue;
      best = 0;
#pragma unroll
      for (int k = 0; k < KEYS; ++k) {
        if (key[k] == winner) key[k] = 0;
        best = key[k] > best ? key[k] : best;
      }
    }
    // Nearest first: a winner's place is the number of winners with larger numbers.
    int place[kListRegisters] = {};
    for (int i = 0; i < found; ++i) {
      const auto other = static_cast<uint32_t>(__shfl_sync(kAllLanes, i < 32 ? won[0] : won[1], i % 32));
#pragma unroll
      for (int k = 0; k < kListRegisters; ++k) place[k] += other > static_cast<uint32_t>(won[k]);
    }
#pragma unroll
    for (int k = 0; k < kListRegisters; ++k) {
      const int i = k * 32 + lane;
      if (i >= n) continue;
      const int64_t number = i < found ? static_cast<int64_t>(won[k] & 0xffffffffu) : -1, to = row * n + (i < found ? place[k] : i);
      p.index[to] = number;
      p.chosen_score[to] = number < 0 ? 0 : score[number];
    }
  }
}

template <int KEYS>
cudaError_t launch_keys(const GivenParams& p, cudaStream_t stream) {
  constexpr int64_t kMost = 1 << 16;
  const int64_t blocks = (p.count + kWarps - 1) / kWarps;
  given_kernel<KEYS><<<static_cast<unsigned>(blocks < kMost ? blocks : kMost), kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_given(const GivenParams& p, cudaStream_t stream) {
  static_assert(kMostGivenChosen == 64 && kMostGivenChunks == 1024);
  if (p.chunks <= 32) return launch_keys<1>(p, stream);
  if (p.chunks <= 64) return launch_keys<2>(p, stream);
  if (p.chunks <= 128) return launch_keys<4>(p, stream);
  if (p.chunks <= 256) return launch_keys<8>(p, stream);
  return launch_keys<32>(p, stream);
}

}  // namespace cairn::select_cuda
