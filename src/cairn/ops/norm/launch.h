// RMSNorm with an optional rotation behind it on a GPU: what the kernels take. Contract: fused.h. Strides in elements.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn::norm_cuda {

constexpr int64_t kMostWidth = 1024;  // D
constexpr int64_t kWidthStep = 16;    // D is a multiple: eight numbers of each half at a time

// Thread blocks a multiprocessor in the backward: what registers allow. Two do not keep memory busy.
constexpr int kBackwardBlocks = 3;

struct Params {
  const void* x;  // [B,L,H,D], last stride 1, rows 16-byte aligned
  int64_t x_batch_stride, x_row_stride, x_head_stride;
  const void* weight;                  // [D]
  const float *cosine, *sine;          // [L, D/2] contiguous, or both null
  int64_t rows, length, heads, width;  // B L H < 2^31; L, H, D
  bool x_bf16, weight_bf16, y_bf16;
  void* y;             // forward: [B,L,H,D] contiguous
  const void* grad;    // backward: gradient of y, contiguous, y's dtype
  void* grad_x;        // backward: [B,L,H,D], dtype of x: contiguous, or with x's strides
  bool grad_like_x;    // the latter
  float* grad_weight;  // backward: [blocks][D], a partial sum of each block
  int64_t blocks;
  bool ahead;  // forward: ops/cuda/dependent.cuh
};

// A residual sum and the norm behind it (add_rms_norm in norm.h). All [rows, width] contiguous, 16-byte aligned; width a multiple of 8.
struct AddParams {
  const void* x;               // forward: fp32 or bf16; backward: the stored sum, fp32
  const void *delta, *weight;  // bf16; fp32 or bf16 [width]
  int64_t rows, width;
  bool x_bf16, weight_bf16;
  void *sum, *y;          // forward: dtype of x; bf16
  const uint16_t* grad;   // backward: gradient of y, the bits of bf16
  const float* grad_sum;  // backward: gradient of the sum, or null
  float* grad_x;          // backward
  void* grad_delta;       // backward: grad_x in bf16
  float* grad_weight;     // backward: [blocks][width], a partial sum of each block
  int64_t blocks;
};
constexpr int64_t kAddWidthStep = 8;

// parts fp32 [rows][width], such as the blocks' partial sums -> sums fp32 [width] of the columns, in a fixed order.
cudaError_t launch_column_sums(const float* parts, int64_t rows, int64_t width, float* sums, cudaStream_t stream);

cudaError_t launch_add_forward(const AddParams& params, cudaStream_t stream);
cudaError_t launch_add_backward(const AddParams& params, cudaStream_t stream);

cudaError_t launch_forward(const Params& params, cudaStream_t stream);
cudaError_t launch_backward(const Params& params, cudaStream_t stream);

}  // namespace cairn::norm_cuda
