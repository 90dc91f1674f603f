#include "cairn/ops/norm/norm.cuh"

namespace cairn::norm_cuda {

cudaError_t launch_from_fp32(Pass pass, const Params& p, cudaStream_t stream) {
  return p.y_bf16 ? launch_width<float, __nv_bfloat16>(pass, p, stream) : launch_width<float, float>(pass, p, stream);
}

}  // namespace cairn::norm_cuda
