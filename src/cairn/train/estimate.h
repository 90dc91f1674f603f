// What a run needs, told before it starts.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "cairn/train/config.h"

namespace cairn {

struct MemoryEstimate {
  int64_t weights = 0, gradients = 0, optimizer = 0, activations = 0;  // bytes; activations: of the hungriest phase
  int64_t total() const { return weights + gradients + optimizer + activations; }
};

// For one of `processes` processes. An upper estimate of what is kept for the backward pass: by the plain paths, or by the GPU's kernels in
// bf16, which keep less (no fp32 copies of queries and keys, no scores of the route loss beside the products).
MemoryEstimate estimate_memory(const TrainConfig& config, int64_t processes, bool kernels = false);

// Floating point operations of one training token, forward and backward (three times the forward): products with weights, attention over
// its window, chunks and selected memory, landmark scores, logits. Nothing for what is computed twice, for norms and other small things:
// the numerator of model FLOP utilisation. The route loss's scores against all `sequences` of the batch are counted for an eighth of the
// tokens where it is on.
double training_flops(const TrainConfig& config, const Phase& phase, int64_t sequences);

// ResourceError with the numbers and what to change if the run does not fit.
void require_memory(const TrainConfig& config, int64_t processes, at::Device device);

}  // namespace cairn
