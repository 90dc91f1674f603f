// Chunk weights of selected scores (docs/algorithm.md section 1, "Weight").
#include <ATen/TensorOperators.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "cairn/core/error.h"
#include "cairn/ops/select/select.h"

namespace cairn {
namespace {

at::Tensor working(const at::Tensor& s) { return s.scalar_type() == at::kDouble ? s : s.to(at::kFloat); }

}  // namespace

at::Tensor softmax_weights(const at::Tensor& s, const at::Tensor& used) {
  CAIRN_CHECK(used.scalar_type() == at::kBool && s.size(-1) == used.size(-1));
  if (s.size(-1) == 0) return working(s);
  // A finite mask value: a row with no used slot at all then has a softmax without NaN, which the outer where sets to 0.
  const at::Tensor x = working(s);
  return at::where(used, x.masked_fill(used.logical_not(), -1e30).softmax(-1), at::zeros({}, x.options()));
}

at::Tensor stick_breaking_weights(const at::Tensor& s, const at::Tensor& used) {
  CAIRN_CHECK(used.scalar_type() == at::kBool && s.size(-1) == used.size(-1));
  // w_k = sigma(s_k) prod_{j<k} (1 - sigma(s_j)) = exp(s_k - sum_{j<=k} softplus(s_j)); unused slots are set to 0 first so that nothing in
  // them (infinities, for instance) reaches the gradient.
  const at::Tensor x = working(s).masked_fill(used.logical_not(), 0);
  const at::Tensor zero = at::zeros({}, x.options());
  const at::Tensor soft = at::where(used, at::softplus(x, 1, 40), zero);
  return at::where(used, (x - soft.cumsum(-1)).exp(), zero);
}

}  // namespace cairn
