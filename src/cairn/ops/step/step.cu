#include "cairn/ops/cuda/dependent.cuh"
#include "cairn/ops/step/launch.h"

namespace cairn::step_cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;

// Compares like (number, smallest index first); a number that is none is the largest, as in at::argmax.
__device__ inline uint64_t key_of(float x, int64_t index) {
  const uint32_t bits = __float_as_uint(x + 0.0f), ordered = bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
  return static_cast<uint64_t>(x != x ? 0xffffffffu : ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

__global__ void __launch_bounds__(kThreads) end_kernel(const __grid_constant__ EndParams p) {
  __shared__ uint64_t best_of[kWarps];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t b = blockIdx.x;
  cuda::let_next_start();
  cuda::wait_for_previous();
  const int64_t position = *p.position;
  for (int64_t i = thread; i < p.width; i += kThreads) {
    const float x = p.x[b * p.width + i];
    p.partial[(b * p.chunk + position % p.chunk) * p.width + i] = x;
    if (p.tail_tokens > 0) p.tail[(b * p.tail_tokens + position % p.tail_tokens) * p.width + i] = x;
  }
  uint64_t best = 0;
  for (int64_t i = thread; i < p.vocab; i += kThreads) {
    const uint64_t key = key_of(p.logits[b * p.vocab + i], i);
    best = key > best ? key : best;
  }
#pragma unroll
  for (int offset = 16; offset >= 1; offset /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffffu, best, offset);
    best = other > best ? other : best;
  }
  if (thread % 32 == 0) best_of[thread / 32] = best;
  __syncthreads();  // every thread has read the position, too
  if (thread != 0) return;
  for (int w = 1; w < kWarps; ++w) best = best_of[w] > best ? best_of[w] : best;
  p.best[b] = static_cast<int64_t>(0xffffffffu - static_cast<uint32_t>(best));
  // The last block to come moves on; the counter is 0 again then.
  if (atomicInc(p.arrived, gridDim.x - 1) == gridDim.x - 1) *p.position = position + 1;
}

__global__ void rotary_kernel(const __grid_constant__ RotaryParams p) {
  cuda::let_next_start();
  cuda::wait_for_previous();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= p.length * p.half) return;
  const int64_t row = at / p.half, i = at % p.half;
  const double frequency = pow(p.theta, static_cast<double>(2 * i) / static_cast<double>(-2 * p.half));
  double sine, cosine;
  sincos(static_cast<double>(*p.first + row) * frequency, &sine, &cosine);
  p.cosine[at] = static_cast<float>(cosine);
  p.sine[at] = static_cast<float>(sine);
}

}  // namespace

cudaError_t launch_end(const EndParams& p, cudaStream_t stream) {
  return cuda::launch_dependent(end_kernel, dim3(static_cast<unsigned>(p.batch)), kThreads, 0, stream, p.ahead, /*cluster=*/1, p);
}

cudaError_t launch_rotary(const RotaryParams& p, cudaStream_t stream) {
  constexpr int kEach = 32;  // double precision is slow: many small blocks
  const auto blocks = static_cast<unsigned>((p.length * p.half + kEach - 1) / kEach);
  return cuda::launch_dependent(rotary_kernel, dim3(blocks), kEach, 0, stream, p.ahead, /*cluster=*/1, p);
}

}  // namespace cairn::step_cuda
