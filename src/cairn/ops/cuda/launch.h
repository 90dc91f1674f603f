// What the host side of every kernel needs (*_cuda_host.cpp only; the one header here that includes CUDA's).
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn {

// The stream of the current device's work; a c10::cuda::CUDAGuard on the operand's device comes first.
inline cudaStream_t current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

// After each launch_*(): its return code, and what the launch itself left behind. Throws c10::Error with the place.
inline void check_launch(cudaError_t code) {
  C10_CUDA_CHECK(code);
  C10_CUDA_CHECK(cudaGetLastError());
}

// Multiprocessors of the device that `x` is on (1 and more), asked once.
int multiprocessors(const at::Tensor& x);

// True if `x` is on a GPU that the kernels are compiled for: compute capability 8.0 and up (sm_90a code, compute_80 PTX for the rest).
bool runs_kernels(const at::Tensor& x);

// `x` (contiguous) where loads of 16 bytes may begin: itself, or a copy.
inline at::Tensor aligned(const at::Tensor& x) { return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0 ? x : x.clone(); }

}  // namespace cairn
