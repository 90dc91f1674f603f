#include <cuda_runtime.h>

#include "cairn/ops/cuda/probe.h"

namespace cairn::cuda {
namespace {

__global__ void probe_kernel() {}

}  // namespace

bool runs_hopper_code() {
  cudaFuncAttributes attributes{};
  int device = 0, major = 0;
  const bool known = cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major == 9 &&
                     cudaFuncGetAttributes(&attributes, probe_kernel) == cudaSuccess;
  if (!known) cudaGetLastError();  // not an error of later calls
  return known && attributes.ptxVersion >= 90;
}

}  // namespace cairn::cuda
