#include "cairn/ops/select/few_rows.cuh"

namespace cairn::select_cuda {

cudaError_t launch_few_rows_fp32(const Params& p, cudaStream_t stream) {
  return with_shape<float>(p.width, [&](auto shape) { return launch_shape(shape, p, stream); });
}

}  // namespace cairn::select_cuda
