// The small kernels at both ends of a recorded decoding step. Contracts: step.h and ops/rotary/rotary.h. No torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn::step_cuda {

struct EndParams {
  const float *x, *logits;  // [B,d], [B,V]
  float *partial, *tail;    // [B,S,d], [B,T,d]
  int64_t *best, *position;
  unsigned int* arrived;
  int64_t width, vocab, chunk, tail_tokens;
  int batch;
  bool ahead;  // ops/cuda/dependent.cuh
};
cudaError_t launch_end(const EndParams& params, cudaStream_t stream);

// Angles of positions first[0] + 0 .. length - 1: cosine and sine [length, half].
struct RotaryParams {
  const int64_t* first;
  float *cosine, *sine;
  int64_t length, half;
  double theta;
  bool ahead;
};
cudaError_t launch_rotary(const RotaryParams& params, cudaStream_t stream);

}  // namespace cairn::step_cuda
