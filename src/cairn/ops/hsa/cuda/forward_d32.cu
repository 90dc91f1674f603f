#include "cairn/ops/hsa/cuda/forward.cuh"

namespace cairn::hsa_cuda {
template cudaError_t launch_forward<32>(const Params&, int, cudaStream_t);
}  // namespace cairn::hsa_cuda
