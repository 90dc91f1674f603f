#include "cairn/ops/cuda/kernels.h"

namespace cairn {
namespace {

// Function-local, so that it is there whichever object is initialised first.
struct Registry {
  CudaKernels table;
  bool any = false, enabled = true;
};
Registry& registry() {
  static Registry it;
  return it;
}

}  // namespace

const CudaKernels* cuda_kernels() {
  const Registry& r = registry();
  return r.any && r.enabled ? &r.table : nullptr;
}

void enable_cuda_kernels(bool on) { registry().enabled = on; }

bool register_cuda_kernels(void (*fill)(CudaKernels* table)) {
  fill(&registry().table);
  return registry().any = true;
}

}  // namespace cairn
