#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>

#include <limits>

#include "cairn/ops/distillation/distillation.h"
#include "cairn/ops/distillation/plain.h"
#include "cairn/ops/select/select.h"

namespace cairn {

at::Tensor landmark_distillation_reference(const at::Tensor& lse, const at::Tensor& score, int64_t chunk, MassOrder order) {
  const int64_t L = score.size(1), C = score.size(2);
  if (score.numel() == 0) return score.sum(-1);
  Visibility v;
  v.chunk = chunk;
  const at::Tensor closed = visible_chunks(L, C, v, score.device()).logical_not();  // [L,C]
  const at::Tensor mass = mean_mass(lse.detach(), closed, order);
  // Finite, so that rows without any visible chunk stay free of NaN.
  const at::Tensor log_p = score.masked_fill(closed, -1e30).log_softmax(-1);
  return -(mass * log_p).masked_fill(mass == 0, 0).sum(-1);
}

// closed holds the same slots in both orders: the first v are open.
at::Tensor mean_mass(const at::Tensor& lse, const at::Tensor& closed, MassOrder order) {
  const double lowest = -1e30;
  const at::Tensor x = lse.masked_fill(closed.unsqueeze(1), -std::numeric_limits<double>::infinity());  // [B,L,H,C]
  const at::Tensor e = (x - x.amax({-1}, true).clamp_min(lowest)).exp_();
  const at::Tensor sum = e.sum({-1}, true);
  const at::Tensor mass = e.div_(sum.masked_fill(sum == 0, 1)).mean({2});  // [B,L,C]
  if (order == MassOrder::kByChunk) return mass;
  const at::Tensor visible = closed.logical_not().sum({-1}, true);  // [L,1]
  const at::Tensor slot = visible - 1 - at::arange(closed.size(-1), visible.options());
  return mass.gather(-1, slot.clamp_min(0).expand_as(mass)).masked_fill(closed, 0);
}

}  // namespace cairn
