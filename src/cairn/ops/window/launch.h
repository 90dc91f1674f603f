// Window attention of one token a row on a GPU: what the kernel takes. Contract: step.h. No torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn::window_cuda {

struct StepParams {
  const void* joined;  // bf16 [B,(H + 2 Hkv) D] contiguous
  const float *q_gain, *k_gain;
  const float *cosine, *sine;  // [D/2] or null
  const float* slopes;         // [H] or null
  const int64_t* position;
  void *k, *v;  // bf16 [B,W,Hkv,D] contiguous
  void* o;      // bf16 [B,H,D]
  int batch, heads, kv_heads, head_dim, window;
  float scale;  // 1 / sqrt(D)
  bool ahead;   // ops/cuda/dependent.cuh
};
cudaError_t launch_step(const StepParams& params, cudaStream_t stream);

}  // namespace cairn::window_cuda
