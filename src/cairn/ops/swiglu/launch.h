// Launches of the SwiGLU kernels on a GPU. No torch header.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn {

// Rows of 2 width numbers, gate first; all contiguous, width a multiple of 4, pointers multiples of 16 bytes.
struct JointSwiglu {
  const void* both = nullptr;  // [rows, 2 width]
  const void* grad = nullptr;  // backward: [rows, width]
  void* y = nullptr;           // forward: [rows, width]; backward: gradient of both
  int64_t rows = 0, width = 0;
  bool bf16 = false;
};
cudaError_t launch_swiglu_forward(const JointSwiglu& args, cudaStream_t stream);
cudaError_t launch_swiglu_backward(const JointSwiglu& args, cudaStream_t stream);

}  // namespace cairn
