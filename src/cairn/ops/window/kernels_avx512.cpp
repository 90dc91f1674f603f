#include "cairn/ops/window/kernels_impl.h"

namespace cairn {

const BandKernels band_kernels_avx512 = kBandKernels;

}  // namespace cairn
