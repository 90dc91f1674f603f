#include "cairn/ops/hsa/kernel.h"

#include <atomic>

#include "cairn/core/error.h"

namespace cairn::hsa_cpu {
namespace {

std::vector<const Kernel*> find_kernels() {
  std::vector<const Kernel*> found;
  const auto add = [&](const Kernel* kernel, bool supported) {
    if (kernel != nullptr && supported) found.push_back(kernel);
  };
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();
  add(kernel_avx512(), __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"));
  add(kernel_avx2(), __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
#endif
  add(kernel_generic(), true);
  return found;
}

std::atomic<const Kernel*> chosen{nullptr};

}  // namespace

const std::vector<const Kernel*>& kernels() {
  static const std::vector<const Kernel*> found = find_kernels();
  return found;
}

const Kernel& kernel() {
  const Kernel* kernel = chosen.load(std::memory_order_relaxed);
  return kernel != nullptr ? *kernel : *kernels().front();
}

void use_kernel(const std::string& name) {
  if (name.empty()) {
    chosen = nullptr;
    return;
  }
  for (const Kernel* kernel : kernels()) {
    if (name == kernel->name) {
      chosen = kernel;
      return;
    }
  }
  CAIRN_CHECK(false, "no kernel {} on this machine", name);
}

}  // namespace cairn::hsa_cpu
