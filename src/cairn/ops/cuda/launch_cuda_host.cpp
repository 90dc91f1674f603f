#include <array>
#include <atomic>

#include "cairn/ops/cuda/launch.h"

namespace cairn {
namespace {

constexpr int kMostDevices = 64;

// cudaDeviceGetAttribute, remembered per device: it stands in front of every launch.
int attribute(cudaDeviceAttr what, int device, std::array<std::atomic<int>, kMostDevices>* known) {
  if (device >= 0 && device < kMostDevices) {
    if (const int value = (*known)[device].load(std::memory_order_relaxed); value > 0) return value;
  }
  int value = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, what, device));
  if (device >= 0 && device < kMostDevices) (*known)[device].store(value, std::memory_order_relaxed);
  return value;
}

}  // namespace

int multiprocessors(const at::Tensor& x) {
  static std::array<std::atomic<int>, kMostDevices> known;
  return attribute(cudaDevAttrMultiProcessorCount, x.get_device(), &known);
}

bool runs_kernels(const at::Tensor& x) {
  constexpr int kOldestMajor = 8;
  static std::array<std::atomic<int>, kMostDevices> known;
  return x.is_cuda() && attribute(cudaDevAttrComputeCapabilityMajor, x.get_device(), &known) >= kOldestMajor;
}

}  // namespace cairn
