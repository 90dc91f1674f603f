#include "cairn/ops/cross_entropy/kernels_impl.h"

namespace cairn {

const CrossEntropyKernels cross_entropy_kernels_avx2 = kCrossEntropyKernels;

}  // namespace cairn
