#include "cairn/ops/swiglu/kernels_impl.h"

namespace cairn {

const SwigluKernels swiglu_kernels_generic = kSwigluKernels;

}  // namespace cairn
