// The source of the norm kernels, included once for each instruction set. See kernels.h.
#pragma once

#include "cairn/ops/norm/kernels.h"
#include "cairn/ops/simd/simd.h"

namespace cairn {
namespace {

CAIRN_INLINE float root(float x) { return __builtin_sqrtf(x); }

template <typename X>
CAIRN_INLINE const X* token_row(const NormArgs& a, const void* base, int64_t token) {
  return static_cast<const X*>(base) + (token / a.length) * a.batch_stride + (token % a.length) * a.token_stride;
}

// One part: y = x * scale * w, or its rotation.
template <typename X, typename Y, int W, bool kRotate>
CAIRN_INLINE void forward_part(const X* x, const float* w, const float* c, const float* s, Y* y, int64_t n, float eps) {
  using namespace simd;
  F<W> square = {}, square2 = {};
  int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    const F<W> a = load<W>(x + i), b = load<W>(x + i + W);
    square = fma<W>(a, a, square);
    square2 = fma<W>(b, b, square2);
  }
  for (; i < n; i += W) {
    const F<W> a = load<W>(x + i);
    square = fma<W>(a, a, square);
  }
  const float scale = 1.0f / root(sum<W>(square + square2) / static_cast<float>(n) + eps);
  if constexpr (kRotate) {
    const int64_t half = n / 2;
    for (i = 0; i < half; i += W) {
      const F<W> a = load<W>(x + i) * scale * load<W>(w + i), b = load<W>(x + half + i) * scale * load<W>(w + half + i);
      const F<W> cosine = load<W>(c + i), sine = load<W>(s + i);
      store<W>(y + i, fma<W>(a, cosine, -(b * sine)));
      store<W>(y + half + i, fma<W>(a, sine, b * cosine));
    }
  } else {
    for (i = 0; i < n; i += W) store<W>(y + i, load<W>(x + i) * scale * load<W>(w + i));
  }
}

// One part of the gradient: with u = x * scale and h the gradient of u * w (rotated back), dw += h u and dx = scale (h w - u mean(h w u)).
template <typename X, typename Y, int W, bool kRotate>
CAIRN_INLINE void backward_part(const X* x, const Y* g, const float* w, const float* c, const float* s, X* dx, float* dw, int64_t n,
                                float eps) {
  using namespace simd;
  const int64_t half = kRotate ? n / 2 : n;
  F<W> square = {}, dot = {};
  for (int64_t i = 0; i < half; i += W) {
    const F<W> a = load<W>(x + i);
    F<W> ga = load<W>(g + i);
    square = fma<W>(a, a, square);
    if constexpr (kRotate) {
      const F<W> b = load<W>(x + half + i), gb = load<W>(g + half + i), cosine = load<W>(c + i), sine = load<W>(s + i);
      square = fma<W>(b, b, square);
      dot = fma<W>(fma<W>(gb, cosine, -(ga * sine)) * load<W>(w + half + i), b, dot);
      ga = fma<W>(ga, cosine, gb * sine);
    }
    dot = fma<W>(ga * load<W>(w + i), a, dot);
  }
  const float scale = 1.0f / root(sum<W>(square) / static_cast<float>(n) + eps);
  const float back = sum<W>(dot) * scale * scale / static_cast<float>(n);
  for (int64_t i = 0; i < half; i += W) {
    const F<W> a = load<W>(x + i);
    F<W> ga = load<W>(g + i);
    if constexpr (kRotate) {
      const F<W> b = load<W>(x + half + i), gb = load<W>(g + half + i), cosine = load<W>(c + i), sine = load<W>(s + i);
      const F<W> hb = fma<W>(gb, cosine, -(ga * sine));
      ga = fma<W>(ga, cosine, gb * sine);
      store<W>(dw + half + i, fma<W>(hb, b * scale, load<W>(dw + half + i)));
      store<W>(dx + half + i, (hb * load<W>(w + half + i) - b * back) * scale);
    }
    store<W>(dw + i, fma<W>(ga, a * scale, load<W>(dw + i)));
    store<W>(dx + i, (ga * load<W>(w + i) - a * back) * scale);
  }
}

template <typename X, typename Y, int W, bool kRotate>
void forward_tokens(const NormArgs& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const X* x = token_row<X>(a, a.x, t);
    Y* y = static_cast<Y*>(a.y) + t * a.heads * a.width;
    const int64_t row = kRotate ? (t % a.length) * (a.width / 2) : 0;
    for (int64_t h = 0; h < a.heads; ++h)
      forward_part<X, Y, W, kRotate>(x + h * a.head_stride, a.weight + h * a.weight_stride, a.cosine + row, a.sine + row, y + h * a.width,
                                     a.width, a.eps);
  }
}

template <typename X, typename Y, int W, bool kRotate>
void backward_tokens(const NormArgs& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const X* x = token_row<X>(a, a.x, t);
    const Y* g = static_cast<const Y*>(a.grad) + t * a.heads * a.width;
    X* dx = static_cast<X*>(a.y) + t * a.heads * a.width;
    const int64_t row = kRotate ? (t % a.length) * (a.width / 2) : 0;
    for (int64_t h = 0; h < a.heads; ++h)
      backward_part<X, Y, W, kRotate>(x + h * a.head_stride, g + h * a.width, a.weight + h * a.weight_stride, a.cosine + row, a.sine + row,
                                      dx + h * a.width, a.grad_weight + h * a.weight_stride, a.width, a.eps);
  }
}

// The widest vectors that divide the numbers of a part (of its half where it is rotated): no ragged ends inside.
template <typename X, typename Y, bool kRotate, bool kBackward>
void choose_width(const NormArgs& a, int64_t begin, int64_t end) {
  const int64_t n = kRotate ? a.width / 2 : a.width;
  const auto run = [&](auto width) {
    constexpr int W = decltype(width)::value;
    if constexpr (kBackward)
      backward_tokens<X, Y, W, kRotate>(a, begin, end);
    else
      forward_tokens<X, Y, W, kRotate>(a, begin, end);
  };
  if constexpr (simd::kWidth >= 16)
    if (n % 16 == 0) return run(simd::Constant<16>{});
  if constexpr (simd::kWidth >= 8)
    if (n % 8 == 0) return run(simd::Constant<8>{});
  if (n % 4 == 0) return run(simd::Constant<4>{});
  run(simd::Constant<1>{});
}

template <bool kBackward>
void choose_types(const NormArgs& a, int64_t begin, int64_t end) {
  using simd::Bf16;
  const auto run = [&](auto x, auto y) {
    using X = decltype(x);
    using Y = decltype(y);
    if (a.cosine)
      choose_width<X, Y, true, kBackward>(a, begin, end);
    else
      choose_width<X, Y, false, kBackward>(a, begin, end);
  };
  if (a.x_bf16)
    a.y_bf16 ? run(Bf16{}, Bf16{}) : run(Bf16{}, 0.0f);
  else
    a.y_bf16 ? run(0.0f, Bf16{}) : run(0.0f, 0.0f);
}

constexpr NormKernels kNormKernels = {choose_types<false>, choose_types<true>};

}  // namespace
}  // namespace cairn
