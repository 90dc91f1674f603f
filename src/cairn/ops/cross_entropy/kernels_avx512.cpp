#include "cairn/ops/cross_entropy/kernels_impl.h"

namespace cairn {

const CrossEntropyKernels cross_entropy_kernels_avx512 = kCrossEntropyKernels;

}  // namespace cairn
