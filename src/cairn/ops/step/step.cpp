#include "cairn/ops/step/step.h"

#include <ATen/TensorOperators.h>

#include "cairn/core/error.h"
#include "cairn/ops/step/kernels.h"

namespace cairn {

void end_step(const StepEnd& s) {
  CAIRN_CHECK(s.x.dim() == 3 && s.x.size(1) == 1 && s.partial.size(2) == s.x.size(2) && s.tail.size(2) == s.x.size(2) &&
                  s.best.numel() == s.x.size(0) && s.logits.size(0) == s.x.size(0),
              "end_step: x of {} dimensions, {} rows of logits", s.x.dim(), s.logits.size(0));
  const StepKernels* own = s.x.is_cuda() ? step_kernels() : nullptr;
  if (own != nullptr && own->end_step_supports != nullptr && own->end_step_supports(s)) return own->end_step(s);
  end_step_reference(s);
}

void end_step_reference(const StepEnd& s) {
  s.best.copy_(s.logits.select(1, 0).argmax(-1, /*keepdim=*/true));
  const auto keep = [&](const at::Tensor& ring) {
    if (ring.size(1) > 0) ring.index_copy_(1, s.position.remainder(ring.size(1)).view({1}), s.x);
  };
  keep(s.partial);
  keep(s.tail);
  s.position.add_(1);
}

}  // namespace cairn
