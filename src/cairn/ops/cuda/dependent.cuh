// Kernels that follow each other closely (programmatic dependent launch, compute capability 9.0): the next one starts while this one still
// runs, fetches what does not depend on it (weights, caches of earlier steps), and then waits. Where kernels are compiled for other
// devices both functions do nothing and launches are plain.
//
// Whoever calls let_next_start() or is launched by launch_dependent() calls wait_for_previous() in every thread before it reads what
// earlier work of the same stream wrote, and before it writes anything at all. When it returns, all earlier work is finished, because each
// kernel of the chain ends only after it has waited itself. What is read before the wait must have been written before the whole chain was
// queued: kernels are launched ahead only where runs_hopper() (ops/cuda/hopper.h) and StepRecording (ops/step/kernels.h) say so.
#pragma once

#include <cuda_runtime.h>

namespace cairn::cuda {

__device__ inline void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// cluster: thread blocks along x that run together and share their shared memory; 1: none. ahead: may start before what is queued in front
// of it has ended.
template <typename... Parameters, typename... Arguments>
cudaError_t launch_dependent(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes, cudaStream_t stream, bool ahead,
                             unsigned cluster, const Arguments&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  if (ahead) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = cluster;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  }
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  return error != cudaSuccess ? error : cudaGetLastError();
}

}  // namespace cairn::cuda
