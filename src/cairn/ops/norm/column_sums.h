// Sums of the columns of partial sums [rows, width], in a fixed order: the end of the norms' weight gradients.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn::norm_cuda {

// parts fp32 [rows][width] -> sums fp32 [width].
cudaError_t launch_column_sums(const float* parts, int64_t rows, int64_t width, float* sums, cudaStream_t stream);

}  // namespace cairn::norm_cuda
