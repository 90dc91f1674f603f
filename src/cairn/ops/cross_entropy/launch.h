// Rows of logits on a GPU: what the kernels take. logits fp32 [rows, vocab] contiguous, target int64 [rows].
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn::cross_entropy_cuda {

struct Params {
  const float* logits;
  const int64_t* target;  // outside 0 .. vocab - 1: loss and gradient are NaN
  int64_t rows, vocab;
  float *lse, *loss;  // statistics: log-sum-exp and lse - logits[target]
  bool* correct;      // statistics: the largest logit is the target's (the first of equals)
  const float *known_lse, *scale;
  void* grad;  // gradient: scale (softmax - onehot), [rows, vocab]; may be `logits` itself where it is fp32
  bool grad_bf16;
};

cudaError_t launch_statistics(const Params& params, cudaStream_t stream);
cudaError_t launch_gradient(const Params& params, cudaStream_t stream);

}  // namespace cairn::cross_entropy_cuda
