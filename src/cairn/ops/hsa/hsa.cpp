#include "cairn/ops/hsa/hsa.h"

namespace cairn {

HsaOutput hsa(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& index, const at::Tensor& weight,
              int64_t chunk, bool off_by_one, bool want_lse) {
  return hsa_reference(q, k, v, index, weight, chunk, off_by_one, want_lse);
}

}  // namespace cairn
