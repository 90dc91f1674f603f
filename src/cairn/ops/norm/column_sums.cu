// A thread block takes 32 columns: 32 threads a column add every 32nd row, then a tree. A general reduction of such a shape (some hundred
// rows, 64 to some hundred columns) takes 11 us of a step, forty times.
#include "cairn/ops/cuda/lanes.cuh"
#include "cairn/ops/norm/launch.h"

namespace cairn::norm_cuda {
namespace {

constexpr int kColumns = 32, kRows = 32;

__global__ void __launch_bounds__(kColumns* kRows) column_sums_kernel(const float* parts, int64_t rows, int64_t width, float* sums) {
  __shared__ float shared[kRows][kColumns + 1];
  const int c = threadIdx.x % kColumns, r = threadIdx.x / kColumns;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + c;
  float sum = 0;
  if (column < width) {
#pragma unroll 8
    for (int64_t row = r; row < rows; row += kRows) sum += parts[row * width + column];
  }
  shared[r][c] = sum;
  __syncthreads();
  // Warp r adds up column r of the block.
  float mine = shared[c][r];
  mine = cuda::sum_lanes<32>(mine);
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kColumns + r;
  if (c == 0 && at < width) sums[at] = mine;
}

}  // namespace

cudaError_t launch_column_sums(const float* parts, int64_t rows, int64_t width, float* sums, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((width + kColumns - 1) / kColumns);
  column_sums_kernel<<<blocks, kColumns * kRows, 0, stream>>>(parts, rows, width, sums);
  return cudaGetLastError();
}

}  // namespace cairn::norm_cuda
