// What is left to do behind the layers when one token a row has been decoded as recorded work: the most likely next token, the midpoint
// state kept for the chunk and the tail, and the position moved on; all in place.
//
//   best[b]              = arg max of logits[b]             (the smallest of equal ones)
//   partial[b, p % S]    = x[b],   tail[b, p % T] = x[b]    (p: the position before; T may be 0)
//   position             = p + 1
#pragma once

#include <ATen/core/Tensor.h>

namespace cairn {

struct StepEnd {
  at::Tensor x;              // [B,1,d] fp32
  at::Tensor logits;         // [B,1,V] fp32
  at::Tensor partial, tail;  // [B,S,d], [B,T,d] fp32 contiguous
  at::Tensor best;           // [B,1] int64 contiguous
  at::Tensor position;       // int64, no dimension
  at::Tensor arrived;        // int32 [1], 0: the kernel's own
};
void end_step(const StepEnd& step);
void end_step_reference(const StepEnd& step);

}  // namespace cairn
