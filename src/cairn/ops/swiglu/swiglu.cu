#include "cairn/ops/cuda/vector.cuh"
#include "cairn/ops/swiglu/launch.h"

namespace cairn::swiglu_cuda {
namespace {

using cuda::kEight;
using cuda::load_eight;
using cuda::store_eight;

constexpr int kThreads = 256;

__device__ float sigmoid(float x) { return 1 / (1 + __expf(-x)); }

// Eight numbers a thread and turn.
template <typename T, bool BACKWARD>
__global__ void __launch_bounds__(kThreads) swiglu_kernel(const __grid_constant__ Params p) {
  const int64_t vectors = p.width / kEight, all = p.rows * vectors;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < all; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    // 32-bit division wherever it will do: it is several times faster.
    const int64_t row = all <= 0xffffffffll ? static_cast<uint32_t>(i) / static_cast<uint32_t>(vectors) : i / vectors;
    const int64_t at = (i - row * vectors) * kEight;
    float g[kEight], u[kEight], out[kEight];
    load_eight(static_cast<const T*>(p.gate) + row * p.gate_stride + at, g);
    load_eight(static_cast<const T*>(p.up) + row * p.up_stride + at, u);
    if constexpr (!BACKWARD) {
#pragma unroll
      for (int j = 0; j < kEight; ++j) out[j] = g[j] * sigmoid(g[j]) * u[j];
      store_eight(static_cast<T*>(p.y) + i * kEight, out);
    } else {
      float d[kEight];
      load_eight(static_cast<const T*>(p.grad) + i * kEight, d);
#pragma unroll
      for (int j = 0; j < kEight; ++j) {
        const float s = sigmoid(g[j]);
        out[j] = d[j] * u[j] * s * (1 + g[j] * (1 - s));
        d[j] *= g[j] * s;
      }
      store_eight(static_cast<T*>(p.grad_gate) + row * p.grad_gate_stride + at, out);
      store_eight(static_cast<T*>(p.grad_up) + row * p.grad_up_stride + at, d);
    }
  }
}

template <bool BACKWARD>
cudaError_t launch(const Params& p, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(p.blocks);
  if (p.bf16) {
    swiglu_kernel<__nv_bfloat16, BACKWARD><<<blocks, kThreads, 0, stream>>>(p);
  } else {
    swiglu_kernel<float, BACKWARD><<<blocks, kThreads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_forward(const Params& p, cudaStream_t stream) { return launch<false>(p, stream); }
cudaError_t launch_backward(const Params& p, cudaStream_t stream) { return launch<true>(p, stream); }

}  // namespace cairn::swiglu_cuda
