// Window attention of one new token a row, with what stands before it in a layer: norm and rotation of query and key, and the window of
// keys and values, which changes in place so that the step can be recorded and run again at later positions.
//
//   joined [B,1,(H + 2 Hkv) D]: query, key and value heads of the token, as one product makes them
//   ring: k (normed and rotated) and v [B,W,Hkv,D] contiguous; the token of position p lies in column p % W, and the W - 1 tokens before
//   this one are there. position: int64, no dimension, on the device, of this token. q_gain, k_gain [D]; table: angles of this position,
//   or undefined; alibi: slopes [H] fp32, or undefined.
// Returns o [B,1,H,D] (ops/window/window.h) in the dtype of joined. No gradients. The plain path serves any device and dtype; on a GPU
// bf16 with D in {32, 64, 128} is one kernel.
#pragma once

#include <ATen/core/Tensor.h>

#include "cairn/ops/rotary/rotary.h"

namespace cairn {

struct WindowRing {
  at::Tensor k, v, position;
};

at::Tensor window_step(const at::Tensor& joined, const at::Tensor& q_gain, const at::Tensor& k_gain, const RotaryTable& table,
                       const WindowRing& ring, const at::Tensor& alibi = {});
at::Tensor window_step_reference(const at::Tensor& joined, const at::Tensor& q_gain, const at::Tensor& k_gain, const RotaryTable& table,
                                 const WindowRing& ring, const at::Tensor& alibi = {});

}  // namespace cairn
