// A small matrix product on packed fp32 data, the inner loop of the band kernels: C[r][.] (+)= sum_k A[r,k] B[k][.].
#pragma once

#include "cairn/ops/simd/simd.h"

namespace cairn {
namespace {

// B is read as vectors: vector v of row k at b + k * row + v * column. C likewise, with its vectors one after another.
struct PackedB {
  const float* data;
  int64_t row, column;
};

template <int R, int V, bool kAdd>
CAIRN_INLINE void gemm_block(int64_t depth, const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_row, int64_t b_column,
                             float* c, int64_t c_row) {
  using namespace simd;
  constexpr int W = kWidth;
  F<W> sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[r][v] = kAdd ? load<W>(c + r * c_row + v * W) : F<W>{};
  for (int64_t k = 0; k < depth; ++k) {
    F<W> column[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) column[v] = load<W>(b + k * b_row + v * b_column);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F<W> x = set<W>(a[r * a_row + k * a_step]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] = fma<W>(x, column[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store<W>(c + r * c_row + v * W, sum[r][v]);
}

// Rows of a tile, and vectors of it that fit the registers beside them.
constexpr int kRows = simd::kWidth == 16 ? 8 : 4;
constexpr int kVectors = 3;

template <int R, bool kAdd>
void gemm_rows(int64_t depth, const float* a, int64_t a_row, int64_t a_step, PackedB b, float* c, int64_t c_row, int64_t vectors) {
  constexpr int W = simd::kWidth;
  int64_t v = 0;
  const auto at = [&](int64_t i) { return b.data + i * b.column; };
  for (; v + kVectors <= vectors; v += kVectors)
    gemm_block<R, kVectors, kAdd>(depth, a, a_row, a_step, at(v), b.row, b.column, c + v * W, c_row);
  if (v + 2 <= vectors) {
    gemm_block<R, 2, kAdd>(depth, a, a_row, a_step, at(v), b.row, b.column, c + v * W, c_row);
    v += 2;
  }
  if (v < vectors) gemm_block<R, 1, kAdd>(depth, a, a_row, a_step, at(v), b.row, b.column, c + v * W, c_row);
}

// C [rows, vectors * kWidth]; A element (r, k) at a + r * a_row + k * a_step.
template <bool kAdd>
void gemm(int64_t rows, int64_t depth, const float* a, int64_t a_row, int64_t a_step, PackedB b, float* c, int64_t c_row, int64_t vectors) {
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) gemm_rows<kRows, kAdd>(depth, a + r * a_row, a_row, a_step, b, c + r * c_row, c_row, vectors);
  if constexpr (kRows > 4)
    if (r + 4 <= rows) {
      gemm_rows<4, kAdd>(depth, a + r * a_row, a_row, a_step, b, c + r * c_row, c_row, vectors);
      r += 4;
    }
  for (; r < rows; ++r) gemm_rows<1, kAdd>(depth, a + r * a_row, a_row, a_step, b, c + r * c_row, c_row, vectors);
}

}  // namespace
}  // namespace cairn
