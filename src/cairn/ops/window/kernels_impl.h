// The source of the band kernels, included once for each instruction set. See kernels.h.
#pragma once

#include "cairn/ops/simd/simd.h"
#include "cairn/ops/window/kernels.h"
#include "cairn/ops/window/pack.h"
#include "cairn/ops/window/tile_gemm.h"

namespace cairn {
namespace {

constexpr int W = simd::kWidth;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kHidden = -1e30f;

// One item: its place and the rows of its tiles. Row r of an item is token r / group of the span, query head r % group of the group, so
// that the heads that share keys share a tile.
struct Item {
  const BandArgs& a;
  int64_t batch, kv_head, span, first_token, tokens, group, first_key, keys;

  Item(const BandArgs& args, int64_t item) : a(args) {
    span = item % a.spans;
    kv_head = item / a.spans % a.kv_heads;
    batch = item / a.spans / a.kv_heads;
    first_token = span * a.span;
    tokens = (a.span < a.queries - first_token ? a.span : a.queries - first_token);
    group = a.heads / a.kv_heads;
    first_key = a.first_key(span);
    keys = a.end_key(span) - first_key;
  }
  int64_t rows() const { return tokens * group; }
  int64_t token(int64_t row) const { return first_token + row / group; }
  int64_t head(int64_t row) const { return kv_head * group + row % group; }
  // The keys that a row sees, counted from first_key.
  int64_t begin(int64_t row) const {
    const int64_t first = token(row) + a.keys - a.queries - a.window + 1 - first_key;
    return a.window == 0 || first < 0 ? 0 : first;
  }
  int64_t end(int64_t row) const { return a.window == 0 ? keys : token(row) + a.keys - a.queries + 1 - first_key; }
  template <typename T>
  const T* row_of(const HeadsView& view, int64_t row) const {
    return static_cast<const T*>(view.data) + batch * view.batch + token(row) * view.token + head(row) * view.head;
  }
  int64_t offset(int64_t row) const { return ((batch * a.queries + token(row)) * a.heads + head(row)) * a.width; }
};

// Scores s of columns first .. first + count (count a multiple of W), seen: [begin, end), in units of log 2; replaced by the unnormalised
// probabilities, exactly 0 where hidden. Returns their sum.
template <bool kBias>
CAIRN_INLINE float softmax_row(float* s, int64_t first, int64_t count, int64_t begin, int64_t end, float slope, float position) {
  using namespace simd;
  F<W> lane;
  for (int i = 0; i < W; ++i) lane[i] = static_cast<float>(i);
  F<W> top = set<W>(kHidden);
  for (int64_t c = 0; c < count; c += W) {
    const int64_t column = first + c;
    F<W> x = load<W>(s + c);
    bool changed = kBias;
    if (kBias) x = fma<W>(lane + (static_cast<float>(column) - position), set<W>(slope), x);
    if (column < begin || column + W > end) {
      const F<W> at = lane + static_cast<float>(column);  // counted inside an item, so exact in fp32
      x = (at < static_cast<float>(begin)) | (at >= static_cast<float>(end)) ? set<W>(kHidden) : x;
      changed = true;
    }
    if (changed) store<W>(s + c, x);
    top = max<W>(top, x);
  }
  const float most = max<W>(top);
  F<W> total = {};
  for (int64_t c = 0; c < count; c += W) {
    const F<W> p = exp2<W>(load<W>(s + c) - most);
    total += p;
    store<W>(s + c, p);
  }
  return sum<W>(total);
}

// Shared by both directions: packs the queries of rows r .. r + n, scaled so that scores come in units of log 2, and makes their
// probabilities (not yet divided by the sums) for the columns first .. first + vectors * W of `p`.
CAIRN_INLINE void tile_softmax(const Item& item, int64_t r, int64_t n, int64_t first, int64_t vectors, float* p, int64_t p_row,
                               float* sums) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t begin = item.begin(r + i), end = item.end(r + i);
    if (item.a.slopes) {
      const float position = static_cast<float>(item.token(r + i) + item.a.keys - item.a.queries - item.first_key);
      sums[i] = softmax_row<true>(p + i * p_row, first, vectors * W, begin, end, item.a.slopes[item.head(r + i)] * kLog2e, position);
    } else {
      sums[i] = softmax_row<false>(p + i * p_row, first, vectors * W, begin, end, 0, 0);
    }
  }
}

CAIRN_INLINE int64_t floor_to(int64_t x, int64_t m) { return x / m * m; }
CAIRN_INLINE int64_t ceil_to(int64_t x, int64_t m) { return (x + m - 1) / m * m; }

// Rows of a backward block: deep enough for the products that sum over rows.
constexpr int64_t kBackRows = 32;

int64_t band_scratch(const BandArgs& a, bool backward) {
  const int64_t keys = ceil_to(a.part_keys, W), width = ceil_to(a.width, W);
  const int64_t tile = backward ? kBackRows : kRows;
  const int64_t per_key = a.width + width;  // by columns and by rows
  const int64_t packed = backward ? keys * (2 * a.width + width) : keys * per_key;
  const int64_t rows = tile * (backward ? 2 * keys + 3 * width : keys + a.width + width);
  return packed + rows + (backward ? 2 * keys * width : 0) + 256;
}

template <typename T>
void band_forward(const BandArgs& a, int64_t index, float* scratch) {
  const Item item(a, index);
  const int64_t keys = ceil_to(item.keys, W), width = ceil_to(a.width, W);
  float* k_columns = scratch;                  // [keys / W][D][W]
  float* v_rows = k_columns + keys * a.width;  // [keys][width]
  float* p = v_rows + keys * width;            // [kRows][keys]
  float* o = p + kRows * keys;                 // [kRows][width]
  float* q = o + kRows * width;                // [kRows][D]
  pack_columns<T>(a.k, item.batch, item.kv_head, item.first_key, item.keys, a.width, k_columns);
  pack_rows<T>(a.v, item.batch, item.kv_head, item.first_key, item.keys, a.width, v_rows);
  const float scale = kLog2e / __builtin_sqrtf(static_cast<float>(a.width));
  float sums[kRows];
  for (int64_t r = 0; r < item.rows(); r += kRows) {
    const int64_t n = item.rows() - r < kRows ? item.rows() - r : kRows;
    const int64_t first = floor_to(item.begin(r), W), vectors = (ceil_to(item.end(r + n - 1), W) - first) / W;
    for (int64_t i = 0; i < n; ++i) copy_row(item.row_of<T>(a.q, r + i), a.width, scale, q + i * a.width);
    gemm<false>(n, a.width, q, a.width, 1, {k_columns + first * a.width, W, a.width * W}, p, keys, vectors);
    tile_softmax(item, r, n, first, vectors, p, keys, sums);
    gemm<false>(n, vectors * W, p, keys, 1, {v_rows + first * width, width, W}, o, width, width / W);
    for (int64_t i = 0; i < n; ++i) copy_row(o + i * width, a.width, 1.0f / sums[i], static_cast<T*>(a.o) + item.offset(r + i));
  }
}

// Probabilities are made again. With P, dP = g V^T and E = rowsum(P o dP): dS = P o (dP - E); dq = dS K / sqrt(D); dK = dS^T q / sqrt(D);
// dV = P^T g.
template <typename T>
void band_backward(const BandArgs& a, int64_t index, float* scratch) {
  using namespace simd;
  const Item item(a, index);
  const int64_t keys = ceil_to(item.keys, W), width = ceil_to(a.width, W);
  float* k_columns = scratch;
  float* v_columns = k_columns + keys * a.width;
  float* k_rows = v_columns + keys * a.width;
  float* dk = k_rows + keys * width;  // [keys][width]
  float* dv = dk + keys * width;
  float* p = dv + keys * width;  // [kBackRows][keys]
  float* ds = p + kBackRows * keys;
  float* q = ds + kBackRows * keys;  // [kBackRows][width], zeros behind D
  float* g = q + kBackRows * width;
  float* dq = g + kBackRows * width;
  pack_columns<T>(a.k, item.batch, item.kv_head, item.first_key, item.keys, a.width, k_columns);
  pack_columns<T>(a.v, item.batch, item.kv_head, item.first_key, item.keys, a.width, v_columns);
  pack_rows<T>(a.k, item.batch, item.kv_head, item.first_key, item.keys, a.width, k_rows);
  fill_zero(dk, 2 * keys * width);
  fill_zero(q, 2 * kBackRows * width);
  const float root = 1.0f / __builtin_sqrtf(static_cast<float>(a.width));
  float sums[kRows];
  for (int64_t r0 = 0; r0 < item.rows(); r0 += kBackRows) {
    const int64_t block = item.rows() - r0 < kBackRows ? item.rows() - r0 : kBackRows;
    const int64_t from = floor_to(item.begin(r0), W), to = ceil_to(item.end(r0 + block - 1), W);
    for (int64_t i = 0; i < block; ++i) {
      copy_row(item.row_of<T>(a.q, r0 + i), a.width, root * kLog2e, q + i * width);
      copy_row(item.row_of<T>(a.grad, r0 + i), a.width, 1.0f, g + i * width);
    }
    for (int64_t r = 0; r < block; r += kRows) {
      const int64_t n = block - r < kRows ? block - r : kRows;
      const int64_t first = floor_to(item.begin(r0 + r), W), vectors = (ceil_to(item.end(r0 + r + n - 1), W) - first) / W;
      float* pr = p + r * keys;
      float* dr = ds + r * keys;
      // Columns that other rows of the block see, but not these.
      for (int64_t i = 0; i < n; ++i) {
        fill_zero(pr + i * keys + from, first - from);
        fill_zero(dr + i * keys + from, first - from);
        fill_zero(pr + i * keys + first + vectors * W, to - first - vectors * W);
        fill_zero(dr + i * keys + first + vectors * W, to - first - vectors * W);
      }
      gemm<false>(n, a.width, q + r * width, width, 1, {k_columns + first * a.width, W, a.width * W}, pr + first, keys, vectors);
      gemm<false>(n, a.width, g + r * width, width, 1, {v_columns + first * a.width, W, a.width * W}, dr + first, keys, vectors);
      tile_softmax(item, r0 + r, n, first, vectors, pr + first, keys, sums);
      for (int64_t i = 0; i < n; ++i) {
        float* x = pr + i * keys + first;
        float* y = dr + i * keys + first;
        const float inverse = 1.0f / sums[i];
        F<W> mass = {};
        for (int64_t c = 0; c < vectors * W; c += W) {
          const F<W> weight = load<W>(x + c) * inverse;
          mass = fma<W>(weight, load<W>(y + c), mass);
          store<W>(x + c, weight);
        }
        const float expected = sum<W>(mass);
        for (int64_t c = 0; c < vectors * W; c += W) store<W>(y + c, load<W>(x + c) * (load<W>(y + c) - expected));
      }
      gemm<false>(n, vectors * W, dr + first, keys, 1, {k_rows + first * width, width, W}, dq + r * width, width, width / W);
      for (int64_t i = 0; i < n; ++i) copy_row(dq + (r + i) * width, a.width, root, static_cast<T*>(a.dq) + item.offset(r0 + r + i));
    }
    gemm<true>(to - from, block, p + from, 1, keys, {g, width, W}, dv + from * width, width, width / W);
    gemm<true>(to - from, block, ds + from, 1, keys, {q, width, W}, dk + from * width, width, width / W);
  }
  float* dk_out = a.dk_part + index * a.part_keys * a.width;
  float* dv_out = a.dv_part + index * a.part_keys * a.width;
  for (int64_t j = 0; j < item.keys; ++j) {
    copy_row(dk + j * width, a.width, 1.0f / kLog2e, dk_out + j * a.width);  // the packed queries carry log2(e)
    copy_row(dv + j * width, a.width, 1.0f, dv_out + j * a.width);
  }
}

void band_forward_any(const BandArgs& a, int64_t item, float* scratch) {
  a.bf16 ? band_forward<simd::Bf16>(a, item, scratch) : band_forward<float>(a, item, scratch);
}
void band_backward_any(const BandArgs& a, int64_t item, float* scratch) {
  a.bf16 ? band_backward<simd::Bf16>(a, item, scratch) : band_backward<float>(a, item, scratch);
}

constexpr BandKernels kBandKernels = {band_scratch, band_forward_any, band_backward_any};

}  // namespace
}  // namespace cairn
