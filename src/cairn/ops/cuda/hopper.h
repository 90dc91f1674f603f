// Which code of the kernels a device runs.
#pragma once

#include <ATen/core/Tensor.h>

namespace cairn {

// True if `x` is on a GPU that runs the kernels' machine code for compute capability 9.0, not what is made of the PTX.
bool runs_hopper(const at::Tensor& x);

}  // namespace cairn
