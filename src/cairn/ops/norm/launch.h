// Launches of the norm kernels on a GPU. No torch header.
#pragma once

#include <cuda_runtime_api.h>

#include "cairn/ops/norm/kernels.h"

namespace cairn {

// The kernels keep a part of `width` numbers in the registers of a few lanes of a warp: width a multiple of 4 up to 2,048; with a table a
// power of two from 8 to 128 (partners of the rotation are then one shuffle apart). One weight for all parts (weight_stride 0). Rows of 4
// numbers are loaded at once: pointers and strides of x and grad are multiples of 4 numbers.
bool norm_launchable(const NormArgs& args);

// args.x, args.y, args.weight, args.cosine, args.sine.
cudaError_t launch_norm_forward(const NormArgs& args, int64_t tokens, int multiprocessors, cudaStream_t stream);

// Blocks of the backward: each leaves one row of partial weight gradients.
int norm_backward_blocks(const NormArgs& args, int64_t tokens, int multiprocessors);
// args.grad -> args.y (gradient of x, contiguous) and args.grad_weight [blocks, width], every number of which is written.
cudaError_t launch_norm_backward(const NormArgs& args, int64_t tokens, int blocks, cudaStream_t stream);

}  // namespace cairn
