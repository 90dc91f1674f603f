#include "cairn/ops/hsa/cuda/backward.cuh"

namespace cairn::hsa_cuda {
template cudaError_t launch_backward<96>(const Params&, int, cudaStream_t);
}  // namespace cairn::hsa_cuda
