#include "cairn/ops/simd/isa.h"

#include <algorithm>
#include <atomic>

namespace cairn {
namespace {

std::atomic<Isa> limit{Isa::kAvx512};

Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return Isa::kAvx512;
  if (avx2) return Isa::kAvx2;
#endif
  return Isa::kGeneric;
}

}  // namespace

Isa cpu_isa() {
  static const Isa machine = detect();
  return std::min(machine, limit.load());
}

void limit_isa(Isa most) { limit = most; }

const char* isa_name(Isa isa) { return isa == Isa::kAvx512 ? "avx512" : isa == Isa::kAvx2 ? "avx2" : "generic"; }

}  // namespace cairn
