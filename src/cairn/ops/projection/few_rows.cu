// A warp makes one or two numbers of every row: its rows of the matrix lie spread over the lanes, 16 bytes each, and are fetched before the
// kernel waits for the one in front of it. The norm's scale is one factor of the finished sum, so its statistics are gathered beside the
// product and nothing waits for them.
#include <cuda_bf16.h>

#include "cairn/ops/cuda/dependent.cuh"
#include "cairn/ops/cuda/vector.cuh"
#include "cairn/ops/projection/launch.h"

namespace cairn::projection_cuda {
namespace {

using cuda::kEight;
using cuda::load_eight;

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr float kEps = 1e-6f;

__device__ inline void widen(const uint4& words, float (&x)[kEight]) {
  const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = __uint_as_float(word[i] << 16);
    x[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
  }
}

// Weights are the same in every step: through the read-only path, ahead of the wait.
__device__ inline uint4 load_weights(const uint4* from) { return __ldg(from); }

// VECTORS: 16-byte pieces of a matrix row that a lane holds at a time. OUTS: rows of the matrix a warp (with SwiGLU: gate and up).
template <int VECTORS, int OUTS, bool NORM, bool SWIGLU>
__global__ void __launch_bounds__(kThreads) few_rows_kernel(const __grid_constant__ Params p) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const int vectors = p.width / kEight;
  int row[OUTS];
#pragma unroll
  for (int o = 0; o < OUTS; ++o) row[o] = SWIGLU ? warp + o * p.outs : warp * OUTS + o;
  const bool any = (SWIGLU ? warp : warp * OUTS) < p.outs;
  const auto there = [&](int o) { return SWIGLU ? any : row[o] < p.outs; };

  uint4 w[OUTS][VECTORS];
  const auto fetch = [&](int base) {
#pragma unroll
    for (int o = 0; o < OUTS; ++o) {
#pragma unroll
      for (int v = 0; v < VECTORS; ++v) {
        const int at = base + v * 32 + lane;
        w[o][v] = there(o) && at < vectors ? load_weights(static_cast<const uint4*>(p.w) + static_cast<int64_t>(row[o]) * vectors + at)
                                           : make_uint4(0, 0, 0, 0);
      }
    }
  };
  float gain[NORM ? VECTORS : 1][kEight];
  const auto fetch_gain = [&](int base) {
    if constexpr (NORM) {
#pragma unroll
      for (int v = 0; v < VECTORS; ++v) {
        const int at = base + v * 32 + lane;
#pragma unroll
        for (int i = 0; i < kEight; ++i) gain[v][i] = 0;
        if (at < vectors) load_eight(p.gain + at * kEight, gain[v]);
      }
    }
  };
  cuda::let_next_start();
  fetch(0);
  fetch_gain(0);
  // Lane o writes what row o of the matrix makes.
  constexpr int kResults = SWIGLU ? 1 : OUTS;
  int mine = -1;
#pragma unroll
  for (int o = 0; o < kResults; ++o) mine = lane == o && there(o) ? row[o] : mine;
  const float bias = p.bias != nullptr && mine >= 0 ? __bfloat162float(static_cast<const __nv_bfloat16*>(p.bias)[mine]) : 0;
  cuda::wait_for_previous();

  for (int r = 0; r < p.rows; ++r) {
    const int64_t to = static_cast<int64_t>(r) * p.outs + mine;
    const float add = p.residual != nullptr && mine >= 0 ? p.residual[to] + bias : bias;
    float sum[OUTS] = {}, squares = 0;
    for (int base = 0; base < vectors; base += 32 * VECTORS) {
      if (vectors > 32 * VECTORS && (base > 0 || r > 0)) {
        fetch(base);
        fetch_gain(base);
      }
      float x[VECTORS][kEight];
#pragma unroll
      for (int v = 0; v < VECTORS; ++v) {
        const int at = base + v * 32 + lane;
#pragma unroll
        for (int i = 0; i < kEight; ++i) x[v][i] = 0;
        if (at < vectors) {
          const int64_t from = r * p.x_stride + static_cast<int64_t>(at) * kEight;
          if constexpr (NORM) {
            load_eight(static_cast<const float*>(p.x) + from, x[v]);
          } else {
            load_eight(static_cast<const __nv_bfloat16*>(p.x) + from, x[v]);
          }
        }
      }
#pragma unroll
      for (int v = 0; v < VECTORS; ++v) {
        if constexpr (NORM) {
#pragma unroll
          for (int i = 0; i < kEight; ++i) {
            squares += x[v][i] * x[v][i];
            x[v][i] *= gain[v][i];
          }
        }
#pragma unroll
        for (int o = 0; o < OUTS; ++o) {
          float number[kEight];
          widen(w[o][v], number);
#pragma unroll
          for (int i = 0; i < kEight; ++i) sum[o] += x[v][i] * number[i];
        }
      }
    }
#pragma unroll
    for (int offset = 16; offset >= 1; offset /= 2) {
      if constexpr (NORM) squares += __shfl_xor_sync(0xffffffffu, squares, offset);
#pragma unroll
      for (int o = 0; o < OUTS; ++o) sum[o] += __shfl_xor_sync(0xffffffffu, sum[o], offset);
    }
    if constexpr (NORM) {
      const float scale = rsqrtf(squares / static_cast<float>(p.width) + kEps);
#pragma unroll
      for (int o = 0; o < OUTS; ++o) sum[o] *= scale;
    }
    if constexpr (SWIGLU) sum[0] = sum[0] / (1 + __expf(-sum[0])) * sum[OUTS - 1];
    float y = sum[0];
    if (kResults > 1 && lane == 1) y = sum[OUTS - 1];
    y += add;
    if (mine < 0) continue;
    if (p.y_bf16) {
      static_cast<__nv_bfloat16*>(p.y)[to] = __float2bfloat16(y);
    } else {
      static_cast<float*>(p.y)[to] = y;
    }
  }
}

template <int VECTORS, int OUTS, bool NORM, bool SWIGLU>
cudaError_t launch_shape(const Params& p, cudaStream_t stream) {
  const int outs = SWIGLU ? 1 : OUTS, warps = (p.outs + outs - 1) / outs;
  return cuda::launch_dependent(few_rows_kernel<VECTORS, OUTS, NORM, SWIGLU>, dim3(static_cast<unsigned>((warps + kWarps - 1) / kWarps)),
                                kThreads, 0, stream, p.ahead, /*cluster=*/1, p);
}

template <int VECTORS>
cudaError_t launch_width(const Params& p, cudaStream_t stream) {
  constexpr int kManyOuts = 2048;  // beyond, a warp makes two numbers: enough warps are busy
  if (p.swiglu) return launch_shape<VECTORS, 2, true, true>(p, stream);
  const bool two = p.outs > kManyOuts;
  if (p.gain != nullptr) {
    return two ? launch_shape<VECTORS, 2, true, false>(p, stream) : launch_shape<VECTORS, 1, true, false>(p, stream);
  }
  return two ? launch_shape<VECTORS, 2, false, false>(p, stream) : launch_shape<VECTORS, 1, false, false>(p, stream);
}

}  // namespace

cudaError_t launch(const Params& p, cudaStream_t stream) {
  constexpr int kSpan = 32 * kEight;  // numbers of one vector of every lane
  if (p.width <= 2 * kSpan) return launch_width<2>(p, stream);
  if (p.width <= 4 * kSpan) return launch_width<4>(p, stream);
  return launch_width<6>(p, stream);
}

}  // namespace cairn::projection_cuda
