#include "cairn/ops/norm/kernels_impl.h"

namespace cairn {

const NormKernels norm_kernels_avx512 = kNormKernels;

}  // namespace cairn
