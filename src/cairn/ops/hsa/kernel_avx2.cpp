#include "cairn/ops/hsa/kernel.h"

#ifdef __AVX2__
#define CAIRN_VECTOR_BYTES 32
#define CAIRN_PANEL 2
#define CAIRN_KERNEL_NAME "avx2"
#include "cairn/ops/hsa/kernel_body.h"

namespace cairn::hsa_cpu {
const Kernel* kernel_avx2() { return &kKernel; }
}  // namespace cairn::hsa_cpu
#else
namespace cairn::hsa_cpu {
const Kernel* kernel_avx2() { return nullptr; }
}  // namespace cairn::hsa_cpu
#endif
