#include "cairn/ops/norm/norm.cuh"

namespace cairn::norm_cuda {

cudaError_t launch_from_bf16(Pass pass, const Params& p, cudaStream_t stream) {
  return p.y_bf16 ? launch_width<__nv_bfloat16, __nv_bfloat16>(pass, p, stream) : launch_width<__nv_bfloat16, float>(pass, p, stream);
}

cudaError_t launch_forward(const Params& p, cudaStream_t stream) {
  return p.x_bf16 ? launch_from_bf16(Pass::kForward, p, stream) : launch_from_fp32(Pass::kForward, p, stream);
}
cudaError_t launch_backward(const Params& p, cudaStream_t stream) {
  return p.x_bf16 ? launch_from_bf16(Pass::kBackward, p, stream) : launch_from_fp32(Pass::kBackward, p, stream);
}

}  // namespace cairn::norm_cuda
