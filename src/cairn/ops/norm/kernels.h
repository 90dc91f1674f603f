// CPU kernels of RMSNorm, alone or with the rotation of rotary positions. Inside ops only.
//
// A token has `heads` parts of `width` numbers, each normalised by itself; with a table each part is then rotated (split-half form).
#pragma once

#include <cstdint>

namespace cairn {

struct NormArgs {
  const void* x = nullptr;        // token t of sequence b: x + b * batch_stride + t * token_stride; part h: + h * head_stride
  const void* grad = nullptr;     // backward: gradient of y, laid out as y
  void* y = nullptr;              // forward: result; backward: gradient of x. Contiguous [tokens, heads, width]
  const float* weight = nullptr;  // part h: weight + h * weight_stride
  float* grad_weight = nullptr;   // backward: [heads or 1, width], added to; one buffer a caller
  const float* cosine = nullptr;  // [length, width / 2] or null
  const float* sine = nullptr;
  int64_t length = 0;  // tokens of one sequence
  int64_t batch_stride = 0, token_stride = 0, head_stride = 0, weight_stride = 0;
  int64_t heads = 1, width = 0;
  float eps = 0;
  bool x_bf16 = false, y_bf16 = false;  // dtype of x (and its gradient), of y (and its gradient)
};

struct NormKernels {
  void (*forward)(const NormArgs& args, int64_t begin, int64_t end);  // tokens begin .. end of all sequences one after another
  void (*backward)(const NormArgs& args, int64_t begin, int64_t end);
};

// The kernels of cpu_isa().
const NormKernels& norm_kernels();

extern const NormKernels norm_kernels_generic, norm_kernels_avx2, norm_kernels_avx512;

}  // namespace cairn
