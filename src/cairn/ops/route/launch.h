// Log-sum-exps of the route loss on a GPU: what the kernels take. Contract: route.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn::route_cuda {

constexpr int64_t kColumnStep = 8;  // columns are read eight at a time

struct Params {
  const void* product;  // [rows, columns] contiguous, 16-byte aligned, bf16 or fp32
  bool bf16;
  float scale;
  int64_t rows, columns;  // B L, or as many as are numbered; sequences C, a multiple of kColumnStep
  int64_t length, chunks, chunk, own_first;
  const bool* states_key;     // [keys, columns], 8-byte aligned, or null
  const int64_t* key;         // [rows]
  const bool* used;           // [rows], or null:
  const int64_t* number;      // [rows], b L + t of each, -1: not used
  float* out;                 // forward: [rows]
  const float *known, *grad;  // backward: forward's result; gradient of it, [rows]
  void* grad_product;         // backward: [rows, columns], dtype of product
};

cudaError_t launch_forward(const Params& params, cudaStream_t stream);
cudaError_t launch_backward(const Params& params, cudaStream_t stream);

}  // namespace cairn::route_cuda
