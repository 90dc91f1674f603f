// Launches of the cross-entropy kernels on a GPU. No torch header.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn {

// Rows of fp32 logits [rows, vocab], contiguous; vocab a multiple of 4, 4 <= vocab < 2^31; rows < 2^31.
struct LogitRows {
  const float* logits = nullptr;
  const int64_t* target = nullptr;  // [rows], 0 <= target < vocab (asserted on the GPU)
  int64_t rows = 0;
  int vocab = 0;
  float* lse = nullptr;          // statistics: written; gradient: read
  float* loss = nullptr;         // statistics: lse - logit of the target
  bool* correct = nullptr;       // statistics: the first largest logit is the target's
  const float* scale = nullptr;  // gradient: g of each row
  void* gradient = nullptr;      // gradient: [rows, vocab], g (softmax - one-hot)
  bool bf16 = false;             // dtype of `gradient`
};
cudaError_t launch_logit_statistics(const LogitRows& args, cudaStream_t stream);
cudaError_t launch_logit_gradient(const LogitRows& args, cudaStream_t stream);

}  // namespace cairn
