// Copies between tensors and the packed fp32 work space of the band kernels.
#pragma once

#include "cairn/ops/simd/simd.h"
#include "cairn/ops/window/kernels.h"

namespace cairn {
namespace {

// n numbers times scale, with a change of type.
template <typename X, typename Y>
CAIRN_INLINE void copy_row(const X* x, int64_t n, float scale, Y* y) {
  using namespace simd;
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store<kWidth>(y + i, load<kWidth>(x + i) * scale);
  for (; i < n; ++i) store<1>(y + i, load<1>(x + i) * scale);
}

CAIRN_INLINE void fill_zero(float* x, int64_t n) {
  if (n > 0) std::memset(x, 0, static_cast<size_t>(n) * sizeof(float));
}

template <typename T>
CAIRN_INLINE const T* key_row(const HeadsView& view, int64_t batch, int64_t head, int64_t key) {
  return static_cast<const T*>(view.data) + batch * view.batch + key * view.token + head * view.head;
}

// Keys first .. first + keys as rows of ceil(width) numbers; zeros behind the last number and the last key up to whole vectors.
template <typename T>
void pack_rows(const HeadsView& view, int64_t batch, int64_t head, int64_t first, int64_t keys, int64_t width, float* out) {
  constexpr int W = simd::kWidth;
  const int64_t wide = (width + W - 1) / W * W, all = (keys + W - 1) / W * W;
  for (int64_t j = 0; j < keys; ++j) {
    copy_row(key_row<T>(view, batch, head, first + j), width, 1.0f, out + j * wide);
    fill_zero(out + j * wide + width, wide - width);
  }
  fill_zero(out + keys * wide, (all - keys) * wide);
}

// W rows of W numbers, transposed, by log2(W) rounds of swaps between pairs of rows.
template <int W>
CAIRN_INLINE void transpose(simd::F<W>* rows) {
#pragma GCC unroll 8
  for (int step = W / 2; step >= 1; step /= 2) {
    typename simd::Lanes<W>::I low, high;
    for (int i = 0; i < W; ++i) {
      low[i] = (i & step) ? W + i - step : i;  // keeps the first row's lower blocks, takes the second row's lower ones
      high[i] = (i & step) ? W + i : i + step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      if (i & step) continue;
      const simd::F<W> a = rows[i], b = rows[i + step];
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + step] = __builtin_shuffle(a, b, high);
    }
  }
}

// The same keys in blocks of W, a block as [width][W]: number d of W keys side by side.
template <typename T>
void pack_columns(const HeadsView& view, int64_t batch, int64_t head, int64_t first, int64_t keys, int64_t width, float* out) {
  using namespace simd;
  constexpr int W = kWidth;
  for (int64_t j = 0; j < keys; j += W) {
    float* block = out + j * width;
    const int64_t n = keys - j < W ? keys - j : W;
    int64_t d = 0;
    if (n == W)
      for (; d + W <= width; d += W) {
        F<W> rows[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) rows[i] = load<W>(key_row<T>(view, batch, head, first + j + i) + d);
        transpose<W>(rows);
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) store<W>(block + (d + i) * W, rows[i]);
      }
    for (; d < width; ++d)
      for (int64_t i = 0; i < W; ++i) block[d * W + i] = i < n ? load<1>(key_row<T>(view, batch, head, first + j + i) + d)[0] : 0.0f;
  }
}

}  // namespace
}  // namespace cairn
