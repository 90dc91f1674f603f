#include <array>
#include <atomic>

#include "cairn/ops/cuda/hopper.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/cuda/probe.h"

namespace cairn {

bool runs_hopper(const at::Tensor& x) {
  constexpr int kMostDevices = 64;
  static std::array<std::atomic<int>, kMostDevices> known;  // 0: not asked, 1: no, 2: yes
  if (!runs_kernels(x) || x.get_device() >= kMostDevices) return false;
  auto& answer = known[static_cast<size_t>(x.get_device())];
  if (answer.load(std::memory_order_relaxed) == 0) {
    const c10::cuda::CUDAGuard guard(x.device());
    answer.store(cuda::runs_hopper_code() ? 2 : 1, std::memory_order_relaxed);
  }
  return answer.load(std::memory_order_relaxed) == 2;
}

}  // namespace cairn
