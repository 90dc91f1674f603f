#include "cairn/ops/window/kernels_impl.h"

namespace cairn {

const BandKernels band_kernels_generic = kBandKernels;

}  // namespace cairn
