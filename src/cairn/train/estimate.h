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

// For one of `processes` processes. An upper estimate of what the plain paths keep for the backward pass.
MemoryEstimate estimate_memory(const TrainConfig& config, int64_t processes);

// ResourceError with the numbers and what to change if the run does not fit.
void require_memory(const TrainConfig& config, int64_t processes, at::Device device);

}  // namespace cairn
