// Mapped files that kernels read where they are (cudaHostRegister).
#include <cstdint>
#include <string>

#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/step/kernels.h"

namespace cairn {
namespace {

constexpr uintptr_t kPage = 4096;

void* page_of(void* data) { return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(data) / kPage * kPage); }

// Whole pages. Only for reading where the driver knows how: pages of a private mapping then need no copy of their own.
std::string register_host(void* data, int64_t bytes) {
  int device = 0, read_only = 0, same_address = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&read_only, cudaDevAttrHostRegisterReadOnlySupported, device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&same_address, cudaDevAttrCanUseHostPointerForRegisteredMem, device));
  if (same_address == 0) return "this GPU does not use host addresses";
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes) + kPage - 1) / kPage * kPage;
  const size_t size = end - reinterpret_cast<uintptr_t>(page_of(data));
  cudaError_t error = cudaErrorNotSupported;
  if (read_only != 0) error = cudaHostRegister(page_of(data), size, cudaHostRegisterMapped | cudaHostRegisterReadOnly);
  if (error != cudaSuccess) {
    cudaGetLastError();
    error = cudaHostRegister(page_of(data), size, cudaHostRegisterMapped);
  }
  if (error == cudaSuccess) return {};
  cudaGetLastError();  // not an error of later calls
  return cudaGetErrorString(error);
}

void unregister_host(void* data) {
  cudaDeviceSynchronize();  // kernels may still read there
  if (cudaHostUnregister(page_of(data)) != cudaSuccess) cudaGetLastError();
}

[[maybe_unused]] const bool registered = register_step_kernels([](StepKernels* table) {
  table->register_host = register_host;
  table->unregister_host = unregister_host;
});

}  // namespace
}  // namespace cairn
