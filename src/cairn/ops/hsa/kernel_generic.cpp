#define CAIRN_VECTOR_BYTES 16
#define CAIRN_PANEL 2
#define CAIRN_KERNEL_NAME "generic"
#include "cairn/ops/hsa/kernel_body.h"

namespace cairn::hsa_cpu {
const Kernel* kernel_generic() { return &kKernel; }
}  // namespace cairn::hsa_cpu
