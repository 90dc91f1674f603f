// The kernels of kernel.h in GCC vector arithmetic. Included by kernel_*.cpp only, each of which defines
//   CAIRN_VECTOR_BYTES   16, 32 or 64
//   CAIRN_PANEL          vectors of a row that one register block holds
//   CAIRN_KERNEL_NAME    the name in the table
// Only builtin types here and everything in an unnamed namespace: a shared inline function compiled with these files' instruction sets
// could be picked by the linker for the whole program.

#include <cstdint>

#include "cairn/ops/hsa/kernel.h"

namespace cairn::hsa_cpu {
namespace {

constexpr int kLanes = CAIRN_VECTOR_BYTES / 4;
constexpr int kPanel = CAIRN_PANEL;
constexpr int kBlockRows = 6;

typedef float Vec __attribute__((vector_size(CAIRN_VECTOR_BYTES)));
typedef int32_t IVec __attribute__((vector_size(CAIRN_VECTOR_BYTES)));
typedef uint32_t UVec __attribute__((vector_size(CAIRN_VECTOR_BYTES)));
typedef uint16_t HVec __attribute__((vector_size(CAIRN_VECTOR_BYTES / 2)));
typedef Vec VecU __attribute__((aligned(4), may_alias));
typedef HVec HVecU __attribute__((aligned(2), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const VecU*>(p); }
inline void store(float* p, Vec x) { *reinterpret_cast<VecU*>(p) = x; }
inline Vec splat(float x) { return x - Vec{}; }

#if CAIRN_VECTOR_BYTES == 64
constexpr IVec kLow = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
constexpr IVec kHigh = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
constexpr IVec kRotate[] = {{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7},
                            {4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11},
                            {2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13},
                            {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14}};
#elif CAIRN_VECTOR_BYTES == 32
constexpr IVec kLow = {0, 8, 1, 9, 2, 10, 3, 11};
constexpr IVec kHigh = {4, 12, 5, 13, 6, 14, 7, 15};
constexpr IVec kRotate[] = {{4, 5, 6, 7, 0, 1, 2, 3}, {2, 3, 0, 1, 6, 7, 4, 5}, {1, 0, 3, 2, 5, 4, 7, 6}};
#else
constexpr IVec kLow = {0, 4, 1, 5};
constexpr IVec kHigh = {2, 6, 3, 7};
constexpr IVec kRotate[] = {{2, 3, 0, 1}, {1, 0, 3, 2}};
#endif

inline float lane_sum(Vec x) {
#pragma GCC unroll 4
  for (const IVec& r : kRotate) x = x + __builtin_shuffle(x, r);
  return x[0];
}

inline float lane_max(Vec x) {
#pragma GCC unroll 4
  for (const IVec& r : kRotate) {
    const Vec y = __builtin_shuffle(x, r);
    x = y > x ? y : x;
  }
  return x[0];
}

// 2^x for x <= 0, relative error below 1.5e-7 (a polynomial of degree 6 on [-1/2, 1/2]); below 2^-126 the result stays there. NaN stays
// NaN.
inline Vec exp2_vec(Vec x) {
  x = x < -126.0f ? splat(-126.0f) : x;
  const Vec shifted = x + 12582912.0f;  // 1.5 * 2^23: the nearest integer ends up in the low bits
  const Vec f = x - (shifted - 12582912.0f);
  Vec p = splat(1.54614449e-4f);
  p = p * f + 1.3400428e-3f;
  p = p * f + 9.61805694e-3f;
  p = p * f + 5.55032715e-2f;
  p = p * f + 2.40226507e-1f;
  p = p * f + 6.93147182e-1f;
  p = p * f + 1.0f;
  return reinterpret_cast<Vec>(reinterpret_cast<IVec>(p) + (reinterpret_cast<IVec>(shifted) << 23));
}

// c[i,:] (+)= sum_k a[i ai + k ak] b[k,:] for kRows rows and kVectors vectors of columns, held in registers.
template <int kRows, int kVectors, bool kAdd>
inline void block(const float* a, int64_t ai, int64_t ak, const float* b, int64_t ldb, int64_t depth, float* c, int64_t ldc) {
  Vec acc[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec bv[kVectors];
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) bv[n] = load(b + k * ldb + n * kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const Vec x = splat(a[i * ai + k * ak]);
#pragma GCC unroll 4
      for (int n = 0; n < kVectors; ++n) acc[i][n] += x * bv[n];
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) {
      float* p = c + i * ldc + n * kLanes;
      store(p, kAdd ? load(p) + acc[i][n] : acc[i][n]);
    }
  }
}

template <int kVectors, bool kAdd>
void panel(const float* a, int64_t ai, int64_t ak, const float* b, int64_t ldb, int64_t depth, float* c, int64_t ldc, int64_t rows) {
  int64_t i = 0;
  for (; i + kBlockRows <= rows; i += kBlockRows) block<kBlockRows, kVectors, kAdd>(a + i * ai, ai, ak, b, ldb, depth, c + i * ldc, ldc);
  a += i * ai, c += i * ldc;
  switch (rows - i) {
    case 5:
      block<5, kVectors, kAdd>(a, ai, ak, b, ldb, depth, c, ldc);
      break;
    case 4:
      block<4, kVectors, kAdd>(a, ai, ak, b, ldb, depth, c, ldc);
      break;
    case 3:
      block<3, kVectors, kAdd>(a, ai, ak, b, ldb, depth, c, ldc);
      break;
    case 2:
      block<2, kVectors, kAdd>(a, ai, ak, b, ldb, depth, c, ldc);
      break;
    case 1:
      block<1, kVectors, kAdd>(a, ai, ak, b, ldb, depth, c, ldc);
      break;
    default:
      break;
  }
}

// c [rows,cols] (+)= a b; cols a multiple of kLanes.
template <bool kAdd>
void product(const float* a, int64_t ai, int64_t ak, const float* b, int64_t ldb, int64_t depth, float* c, int64_t ldc, int64_t rows,
             int64_t cols) {
  int64_t j = 0;
  for (; j + kPanel * kLanes <= cols; j += kPanel * kLanes) panel<kPanel, kAdd>(a, ai, ak, b + j, ldb, depth, c + j, ldc, rows);
  switch ((cols - j) / kLanes) {
    case 3:
      panel<3, kAdd>(a, ai, ak, b + j, ldb, depth, c + j, ldc, rows);
      break;
    case 2:
      panel<2, kAdd>(a, ai, ak, b + j, ldb, depth, c + j, ldc, rows);
      break;
    case 1:
      panel<1, kAdd>(a, ai, ak, b + j, ldb, depth, c + j, ldc, rows);
      break;
    default:
      break;
  }
}

constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;

// s [Sp]: raw products in, exp(scale s - max) out, padding 0. Returns the sum; *max in units of log 2.
inline float exp_row(float* s, int64_t S, int64_t Sp, float scale, bool off_by_one, float* max) {
  const float to_log2 = scale * kLog2e;
  for (int64_t j = S; j < Sp; ++j) s[j] = -__builtin_huge_valf();
  Vec top = load(s);
  for (int64_t j = kLanes; j < Sp; j += kLanes) {
    const Vec x = load(s + j);
    top = x > top ? x : top;
  }
  float m = lane_max(top) * to_log2;
  if (off_by_one && m < 0) m = 0;
  Vec sum = {};
  for (int64_t j = 0; j < Sp; j += kLanes) {
    const Vec p = exp2_vec(load(s + j) * to_log2 - m);
    store(s + j, p);
    if (j + kLanes <= S) sum += p;
  }
  for (int64_t j = S; j < Sp; ++j) s[j] = 0;
  if (S % kLanes != 0) sum += load(s + Sp - kLanes);
  *max = m;
  float total = lane_sum(sum);
  if (off_by_one) total += exp2_vec(splat(-m))[0];
  return total;
}

void forward(const ForwardTile& x) {
  float *s = x.scratch, *o = x.scratch + x.rows * x.Sp;
  product<false>(x.q, x.Dp, 1, x.kt, x.Sp, x.D, s, x.Sp, x.rows, x.Sp);
  float sums[64];
  for (int64_t first = 0; first < x.rows; first += 64) {
    const int64_t count = x.rows - first < 64 ? x.rows - first : 64;
    float* p = s + first * x.Sp;
    for (int64_t i = 0; i < count; ++i) {
      float max;
      sums[i] = exp_row(p + i * x.Sp, x.S, x.Sp, x.scale, x.off_by_one, &max);
      if (x.lse != nullptr) x.lse[first + i] = max * kLn2 + __builtin_logf(sums[i]);
    }
    product<false>(p, x.Sp, 1, x.v, x.Dp, x.S, o, x.Dp, count, x.Dp);
    for (int64_t i = 0; i < count; ++i) {
      const float f = x.w[first + i] / sums[i];
      float* out = x.o[first + i];
      for (int64_t d = 0; d < x.Dp; d += kLanes) store(out + d, load(out + d) + f * load(o + i * x.Dp + d));
    }
  }
}

void backward(const BackwardTile& x) {
  float *s = x.scratch, *dp = x.scratch + x.rows * x.Sp;
  product<false>(x.q, x.Dp, 1, x.kt, x.Sp, x.D, s, x.Sp, x.rows, x.Sp);
  product<false>(x.g, x.Dp, 1, x.vt, x.Sp, x.D, dp, x.Sp, x.rows, x.Sp);
  for (int64_t i = 0; i < x.rows; ++i) {
    float *p = s + i * x.Sp, *d = dp + i * x.Sp, max;
    const float inverse = 1.0f / exp_row(p, x.S, x.Sp, x.scale, x.off_by_one, &max);
    Vec dot = {};
    for (int64_t j = 0; j < x.Sp; j += kLanes) dot += load(p + j) * load(d + j);
    const float mean = lane_sum(dot) * inverse;  // <g, o_k>
    x.dw[i] = mean;
    const float w = x.w[i], wp = w * inverse, add = (x.dlse != nullptr ? x.dlse[i] : 0.0f) - w * mean, ps = inverse * x.scale;
    for (int64_t j = 0; j < x.Sp; j += kLanes) {
      const Vec e = load(p + j);
      store(d + j, e * ps * (load(d + j) * w + add));  // dS / sqrt(D)
      store(p + j, e * wp);                            // w P
    }
  }
  product<false>(dp, x.Sp, 1, x.k, x.Dp, x.S, x.dq, x.Dp, x.rows, x.Dp);
  product<true>(dp, 1, x.Sp, x.q, x.Dp, x.rows, x.dk, x.Dp, x.S, x.Dp);
  product<true>(s, 1, x.Sp, x.g, x.Dp, x.rows, x.dv, x.Dp, x.S, x.Dp);
}

void load_rows(float* dst, int64_t Dp, const void* src, int64_t stride, int64_t count, int64_t D, bool bf16) {
  for (int64_t i = 0; i < count; ++i, dst += Dp) {
    int64_t d = 0;
    if (bf16) {
      const uint16_t* row = static_cast<const uint16_t*>(src) + i * stride;
      for (; d + kLanes <= D; d += kLanes) {
        const UVec x = __builtin_convertvector(*reinterpret_cast<const HVecU*>(row + d), UVec) << 16;
        store(dst + d, reinterpret_cast<Vec>(x));
      }
      for (; d < D; ++d) {
        const uint32_t x = static_cast<uint32_t>(row[d]) << 16;
        __builtin_memcpy(dst + d, &x, 4);
      }
    } else {
      const float* row = static_cast<const float*>(src) + i * stride;
      for (; d + kLanes <= D; d += kLanes) store(dst + d, load(row + d));
      for (; d < D; ++d) dst[d] = row[d];
    }
    for (; d < Dp; ++d) dst[d] = 0;
  }
}

inline uint16_t round_bf16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  if (x != x) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

void store_rows(void* dst, int64_t stride, bool bf16, const float* src, int64_t Dp, int64_t count, int64_t D) {
  for (int64_t i = 0; i < count; ++i, src += Dp) {
    int64_t d = 0;
    if (bf16) {
      uint16_t* row = static_cast<uint16_t*>(dst) + i * stride;
      for (; d + kLanes <= D; d += kLanes) {
        const Vec x = load(src + d);
        const UVec bits = reinterpret_cast<UVec>(x);
        const UVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        const UVec kept = reinterpret_cast<UVec>(x == x);
        *reinterpret_cast<HVecU*>(row + d) = __builtin_convertvector((rounded & kept) | (0x7fc0u & ~kept), HVec);
      }
      for (; d < D; ++d) row[d] = round_bf16(src[d]);
    } else {
      float* row = static_cast<float*>(dst) + i * stride;
      for (; d + kLanes <= D; d += kLanes) store(row + d, load(src + d));
      for (; d < D; ++d) row[d] = src[d];
    }
  }
}

// log2(lanes) rounds of interleaving rows i and i + lanes/2 transpose a square.
inline void transpose_square(Vec* r) {
#pragma GCC unroll 4
  for (int round = 1; round < kLanes; round *= 2) {
    Vec x[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      x[2 * i] = __builtin_shuffle(r[i], r[i + kLanes / 2], kLow);
      x[2 * i + 1] = __builtin_shuffle(r[i], r[i + kLanes / 2], kHigh);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) r[i] = x[i];
  }
}

void transpose(float* dst, int64_t Sp, const float* src, int64_t Dp, int64_t S, int64_t D) {
  for (int64_t j = 0; j < Sp; j += kLanes) {
    for (int64_t d = 0; d < Dp; d += kLanes) {
      Vec r[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) r[i] = j + i < S ? load(src + (j + i) * Dp + d) : Vec{};
      transpose_square(r);
      const int64_t rows = D - d < kLanes ? D - d : kLanes;
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (i < rows) store(dst + (d + i) * Sp + j, r[i]);
      }
    }
  }
}

void add(float* dst, const float* src, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(dst + i, load(dst + i) + load(src + i));
  for (; i < count; ++i) dst[i] += src[i];
}

constexpr Kernel kKernel = {CAIRN_KERNEL_NAME, kLanes, forward, backward, load_rows, store_rows, transpose, add};

}  // namespace
}  // namespace cairn::hsa_cpu
