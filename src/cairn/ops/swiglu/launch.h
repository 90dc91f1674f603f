// SwiGLU's middle on a GPU: what the kernels take. Contract: swiglu.h. Rows of `width` numbers, a multiple of 8, each row 16-byte aligned.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn::swiglu_cuda {

struct Params {
  const void *gate, *up;
  int64_t gate_stride, up_stride;  // between rows, in elements
  int64_t rows, width;
  bool bf16;                  // else fp32
  void* y;                    // forward: contiguous
  const void* grad;           // backward: gradient of y, contiguous
  void *grad_gate, *grad_up;  // backward
  int64_t grad_gate_stride, grad_up_stride;
  int64_t blocks;
};

cudaError_t launch_forward(const Params& params, cudaStream_t stream);
cudaError_t launch_backward(const Params& params, cudaStream_t stream);

}  // namespace cairn::swiglu_cuda
