#include "cairn/ops/hsa/kernel.h"

#ifdef __AVX512F__
#define CAIRN_VECTOR_BYTES 64
#define CAIRN_PANEL 4
#define CAIRN_KERNEL_NAME "avx512"
#include "cairn/ops/hsa/kernel_body.h"

namespace cairn::hsa_cpu {
const Kernel* kernel_avx512() { return &kKernel; }
}  // namespace cairn::hsa_cpu
#else
namespace cairn::hsa_cpu {
const Kernel* kernel_avx512() { return nullptr; }
}  // namespace cairn::hsa_cpu
#endif
