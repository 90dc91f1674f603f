// The source of the SwiGLU kernels, included once for each instruction set. See kernels.h.
#pragma once

#include "cairn/ops/simd/simd.h"
#include "cairn/ops/swiglu/kernels.h"

namespace cairn {
namespace {

template <typename T, int W>
CAIRN_INLINE void swiglu_forward(const T* gate, const T* up, T* y) {
  using namespace simd;
  const F<W> g = load<W>(gate);
  store<W>(y, g * sigmoid<W>(g) * load<W>(up));
}

// With s = sigmoid(gate): d silu / d gate = s (1 + gate (1 - s)).
template <typename T, int W>
CAIRN_INLINE void swiglu_backward(const T* gate, const T* up, const T* grad, T* dgate, T* dup) {
  using namespace simd;
  const F<W> g = load<W>(gate), dy = load<W>(grad), s = sigmoid<W>(g);
  store<W>(dup, dy * g * s);
  store<W>(dgate, dy * load<W>(up) * s * fma<W>(g, 1.0f - s, set<W>(1.0f)));
}

template <typename T>
void swiglu_forward_rows(const SwigluArgs& a, int64_t begin, int64_t end) {
  constexpr int W = simd::kWidth;
  for (int64_t r = begin; r < end; ++r) {
    const T* gate = static_cast<const T*>(a.gate) + r * a.gate_stride;
    const T* up = static_cast<const T*>(a.up) + r * a.up_stride;
    T* y = static_cast<T*>(a.y) + r * a.width;
    int64_t i = 0;
    for (; i + W <= a.width; i += W) swiglu_forward<T, W>(gate + i, up + i, y + i);
    for (; i < a.width; ++i) swiglu_forward<T, 1>(gate + i, up + i, y + i);
  }
}

template <typename T>
void swiglu_backward_rows(const SwigluArgs& a, int64_t begin, int64_t end) {
  constexpr int W = simd::kWidth;
  for (int64_t r = begin; r < end; ++r) {
    const T* gate = static_cast<const T*>(a.gate) + r * a.gate_stride;
    const T* up = static_cast<const T*>(a.up) + r * a.up_stride;
    const T* grad = static_cast<const T*>(a.grad) + r * a.width;
    T* dgate = static_cast<T*>(a.grad_gate) + r * a.width;
    T* dup = static_cast<T*>(a.grad_up) + r * a.width;
    int64_t i = 0;
    for (; i + W <= a.width; i += W) swiglu_backward<T, W>(gate + i, up + i, grad + i, dgate + i, dup + i);
    for (; i < a.width; ++i) swiglu_backward<T, 1>(gate + i, up + i, grad + i, dgate + i, dup + i);
  }
}

void swiglu_forward_any(const SwigluArgs& a, int64_t begin, int64_t end) {
  a.bf16 ? swiglu_forward_rows<simd::Bf16>(a, begin, end) : swiglu_forward_rows<float>(a, begin, end);
}
void swiglu_backward_any(const SwigluArgs& a, int64_t begin, int64_t end) {
  a.bf16 ? swiglu_backward_rows<simd::Bf16>(a, begin, end) : swiglu_backward_rows<float>(a, begin, end);
}

constexpr SwigluKernels kSwigluKernels = {swiglu_forward_any, swiglu_backward_any};

}  // namespace
}  // namespace cairn
