// A warp takes a row of products: read once for its log-sum-exp, once more for its gradient. Which columns are open is worked out in
// between; nothing of [rows, columns] is made but the gradient.
#include "cairn/ops/cuda/lanes.cuh"
#include "cairn/ops/cuda/vector.cuh"
#include "cairn/ops/route/launch.h"

namespace cairn::route_cuda {
namespace {

using cuda::blocks_for;
using cuda::kEight;
using cuda::load_eight;
using cuda::store_eight;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr float kHidden = -1e30f;

struct Row {
  const uint8_t* closed;                 // the key's row of the table, or null
  int64_t own_begin, own_open, own_end;  // columns of its own sequence; the visible ones end at own_open
};

// b L + t of a row, -1: it is not used.
__device__ inline int64_t number_of(const Params& p, int64_t row) { return p.number != nullptr ? p.number[row] : p.used[row] ? row : -1; }

__device__ inline Row row_of(const Params& p, int64_t row, int64_t number) {
  const int64_t b = number / p.length, t = number % p.length, visible = t / p.chunk < p.chunks ? t / p.chunk : p.chunks;
  const int64_t begin = (p.own_first + b) * p.chunks;
  return {p.states_key == nullptr ? nullptr : reinterpret_cast<const uint8_t*>(p.states_key) + p.key[row] * p.columns, begin,
          begin + visible, begin + p.chunks};
}

// Eight scores; kHidden where a column is closed.
template <typename T>
__device__ inline void load_scores(const Params& p, const Row& r, int64_t row, int64_t m, float (&x)[kEight]) {
  load_eight(static_cast<const T*>(p.product) + row * p.columns + m, x);
  uint64_t closed = 0;
  if (r.closed != nullptr) closed = *reinterpret_cast<const uint64_t*>(r.closed + m);
#pragma unroll
  for (int j = 0; j < kEight; ++j) {
    const int64_t column = m + j;
    const bool own = column >= r.own_begin && column < r.own_end;
    const bool open = own ? column < r.own_open : (closed >> (8 * j) & 0xff) == 0;
    x[j] = open ? x[j] * p.scale : kHidden;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) forward_kernel(const __grid_constant__ Params p) {
  const int lane = threadIdx.x % 32;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; row < p.rows;
       row += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int64_t number = number_of(p, row);
    if (number < 0) {
      if (lane == 0) p.out[row] = 0;
      continue;
    }
    const Row r = row_of(p, row, number);
    float most = kHidden, sum = 0;
    for (int64_t m = lane * kEight; m < p.columns; m += 32 * kEight) {
      float x[kEight];
      load_scores<T>(p, r, row, m, x);
      float here = x[0];
#pragma unroll
      for (int j = 1; j < kEight; ++j) here = fmaxf(here, x[j]);
      if (here > most) {
        sum *= __expf(most - here);
        most = here;
      }
#pragma unroll
      for (int j = 0; j < kEight; ++j) sum += __expf(x[j] - most);
    }
#pragma unroll
    for (int offset = 16; offset >= 1; offset /= 2) {
      const float other = __shfl_xor_sync(0xffffffffu, most, offset), its = __shfl_xor_sync(0xffffffffu, sum, offset);
      const float top = fmaxf(most, other);
      sum = sum * __expf(most - top) + its * __expf(other - top);
      most = top;
    }
    if (lane == 0) p.out[row] = most + logf(sum);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) backward_kernel(const __grid_constant__ Params p) {
  const int lane = threadIdx.x % 32;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; row < p.rows;
       row += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int64_t number = number_of(p, row);
    const float g = number >= 0 ? p.grad[row] * p.scale : 0, lse = p.known[row];
    const Row r = row_of(p, row, number < 0 ? 0 : number);
    for (int64_t m = lane * kEight; m < p.columns; m += 32 * kEight) {
      float x[kEight] = {};
      if (g != 0) {
        load_scores<T>(p, r, row, m, x);
#pragma unroll
        for (int j = 0; j < kEight; ++j) x[j] = x[j] <= kHidden ? 0 : g * __expf(x[j] - lse);
      }
      store_eight(static_cast<T*>(p.grad_product) + row * p.columns + m, x);
    }
  }
}

}  // namespace

cudaError_t launch_forward(const Params& p, cudaStream_t stream) {
  if (p.bf16) {
    forward_kernel<__nv_bfloat16><<<blocks_for(p.rows, kWarps), kThreads, 0, stream>>>(p);
  } else {
    forward_kernel<float><<<blocks_for(p.rows, kWarps), kThreads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

cudaError_t launch_backward(const Params& p, cudaStream_t stream) {
  if (p.bf16) {
    backward_kernel<__nv_bfloat16><<<blocks_for(p.rows, kWarps), kThreads, 0, stream>>>(p);
  } else {
    backward_kernel<float><<<blocks_for(p.rows, kWarps), kThreads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

}  // namespace cairn::route_cuda
