#include "cairn/ops/window/step.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>

#include "cairn/core/error.h"
#include "cairn/ops/require.h"
#include "cairn/ops/step/kernels.h"
#include "cairn/ops/window/window.h"

namespace cairn {
namespace {

void check(const at::Tensor& joined, const at::Tensor& q_gain, const at::Tensor& k_gain, const WindowRing& ring) {
  CAIRN_CHECK(ring.k.dim() == 4 && ring.v.sizes() == ring.k.sizes() && ring.position.dim() == 0 && ring.position.scalar_type() == at::kLong,
              "window_step: a ring of {} dimensions", ring.k.dim());
  const int64_t width = ring.k.size(3);
  CAIRN_CHECK(joined.dim() == 3 && joined.size(0) == ring.k.size(0) && joined.size(1) == 1 && joined.size(2) % width == 0 &&
                  joined.size(2) > 2 * ring.k.size(2) * width && (joined.size(2) / width - 2 * ring.k.size(2)) % ring.k.size(2) == 0,
              "window_step: joined of {} numbers for {} K/V heads of {}", joined.size(-1), ring.k.size(2), width);
  require_sizes("window_step", "q_gain", q_gain, {width}, "[D] of the ring");
  require_sizes("window_step", "k_gain", k_gain, {width}, "[D] of the ring");
}

}  // namespace

at::Tensor window_step(const at::Tensor& joined, const at::Tensor& q_gain, const at::Tensor& k_gain, const RotaryTable& table,
                       const WindowRing& ring, const at::Tensor& alibi) {
  check(joined, q_gain, k_gain, ring);
  const StepKernels* own = joined.is_cuda() ? step_kernels() : nullptr;
  if (own != nullptr && own->window_step_supports != nullptr && own->window_step_supports(joined, q_gain, k_gain, table, ring, alibi)) {
    return own->window_step(joined, q_gain, k_gain, table, ring, alibi);
  }
  return window_step_reference(joined, q_gain, k_gain, table, ring, alibi);
}

at::Tensor window_step_reference(const at::Tensor& joined, const at::Tensor& q_gain, const at::Tensor& k_gain, const RotaryTable& table,
                                 const WindowRing& ring, const at::Tensor& alibi) {
  check(joined, q_gain, k_gain, ring);
  const int64_t B = joined.size(0), W = ring.k.size(1), G = ring.k.size(2), D = ring.k.size(3), H = joined.size(2) / D - 2 * G;
  const at::Tensor heads = joined.view({B, 1, H + 2 * G, D});
  const at::Tensor q = norm_rotate(heads.narrow(2, 0, H), q_gain, table), column = ring.position.remainder(W).view({1});
  ring.k.index_copy_(1, column, norm_rotate(heads.narrow(2, H, G), k_gain, table));
  ring.v.index_copy_(1, column, heads.narrow(2, H + G, G));
  const at::Tensor order = (at::arange(1, W + 1, ring.position.options()) + ring.position).remainder(W);  // oldest first
  return window_attention(q, ring.k.index_select(1, order), ring.v.index_select(1, order), W, alibi);
}

}  // namespace cairn
