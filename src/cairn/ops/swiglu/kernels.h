// CPU kernels of SwiGLU's middle. Inside ops only.
#pragma once

#include <cstdint>

namespace cairn {

// Rows of `width` numbers; strides count numbers. Results are contiguous.
struct SwigluArgs {
  const void* gate = nullptr;
  const void* up = nullptr;
  const void* grad = nullptr;  // backward, contiguous
  void* y = nullptr;           // forward
  void* grad_gate = nullptr;   // backward
  void* grad_up = nullptr;
  int64_t gate_stride = 0, up_stride = 0, width = 0;
  bool bf16 = false;
};

struct SwigluKernels {
  void (*forward)(const SwigluArgs& args, int64_t begin, int64_t end);  // rows begin .. end
  void (*backward)(const SwigluArgs& args, int64_t begin, int64_t end);
};

const SwigluKernels& swiglu_kernels();

extern const SwigluKernels swiglu_kernels_generic, swiglu_kernels_avx2, swiglu_kernels_avx512;

}  // namespace cairn
