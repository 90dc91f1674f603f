// What the reference and the plain path of distillation.cpp share.
#pragma once

#include "cairn/ops/distillation/distillation.h"

namespace cairn {

// p [B,L,C] of lse [B,L,H,C] by chunk, 0 where closed; closed: bool [L,C], a row's visible chunks come first.
at::Tensor mean_mass(const at::Tensor& lse, const at::Tensor& closed, MassOrder order);

}  // namespace cairn
