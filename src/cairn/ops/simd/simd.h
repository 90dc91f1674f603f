// Short vectors of floats for the CPU operators, in GCC's vector extension: the same source gives 16, 8 or 4 lanes, by the flags of the
// file that includes it. Everything is in an unnamed namespace, so that code compiled for one instruction set is never linked into
// another's.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define CAIRN_INLINE inline __attribute__((always_inline))

namespace cairn {
namespace {
namespace simd {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

template <int N>
struct Constant {
  static constexpr int value = N;
};

// Storage of one bfloat16 number.
struct Bf16 {
  uint16_t bits;
};

template <int W>
struct Lanes {
  typedef float F __attribute__((vector_size(4 * W)));
  typedef int32_t I __attribute__((vector_size(4 * W)));
  typedef uint32_t U __attribute__((vector_size(4 * W)));
  typedef uint16_t H __attribute__((vector_size(2 * W)));
};
template <int W>
using F = typename Lanes<W>::F;

template <int W>
CAIRN_INLINE F<W> set(float x) {
  return x - F<W>{};
}
template <int W>
CAIRN_INLINE F<W> load(const float* p) {
  F<W> x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}
template <int W>
CAIRN_INLINE F<W> load(const Bf16* p) {
  typename Lanes<W>::H h;
  std::memcpy(&h, p, sizeof(h));
  return (F<W>)(__builtin_convertvector(h, typename Lanes<W>::U) << 16);
}
template <int W>
CAIRN_INLINE void store(float* p, F<W> x) {
  std::memcpy(p, &x, sizeof(x));
}
// Round to nearest, ties to even; NaN stays NaN.
template <int W>
CAIRN_INLINE void store(Bf16* p, F<W> x) {
  using U = typename Lanes<W>::U;
  const U u = (U)x;
  const U rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const U nan = (U)(x != x);
  const auto h = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0u), typename Lanes<W>::H);
  std::memcpy(p, &h, sizeof(h));
}

// a * b + c, in one rounding where the instruction set has it.
template <int W>
CAIRN_INLINE F<W> fma(F<W> a, F<W> b, F<W> c) {
#if defined(__AVX512F__)
  if constexpr (W == 16) return _mm512_fmadd_ps(a, b, c);
#endif
#if defined(__FMA__)
  if constexpr (W == 8) return _mm256_fmadd_ps(a, b, c);
  if constexpr (W == 4) return _mm_fmadd_ps(a, b, c);
#endif
  return a * b + c;
}
// NaN in b is kept.
template <int W>
CAIRN_INLINE F<W> max(F<W> a, F<W> b) {
#if defined(__AVX512F__)
  if constexpr (W == 16) return _mm512_maskz_max_ps(static_cast<__mmask16>(-1), a, b);  // the plain form trips a GCC 12 warning
#endif
#if defined(__AVX2__)
  if constexpr (W == 8) return _mm256_max_ps(a, b);
#endif
  return a > b ? a : b;
}

template <int W>
CAIRN_INLINE float sum(F<W> x) {
  if constexpr (W == 1) {
    return x[0];
  } else {
    F<W / 2> half[2];
    std::memcpy(half, &x, sizeof(x));
    return sum<W / 2>(half[0] + half[1]);
  }
}
template <int W>
CAIRN_INLINE float max(F<W> x) {
  if constexpr (W == 1) {
    return x[0];
  } else {
    F<W / 2> half[2];
    std::memcpy(half, &x, sizeof(x));
    return max<W / 2>(half[0] > half[1] ? half[0] : half[1]);
  }
}

// 2^t: 2^n by the exponent bits, 2^f for f in [-1/2, 1/2] by a polynomial through Chebyshev nodes (relative error 1e-7). Exactly 0 for t <=
// -126; t above 126 counts as 126. NaN stays NaN.
template <int W>
CAIRN_INLINE F<W> exp2(F<W> t) {
  using I = typename Lanes<W>::I;
  const I alive = ~(t <= -126.0f);
  t = max<W>(set<W>(-126.0f), t);
  t = t > 126.0f ? set<W>(126.0f) : t;
  const F<W> shifted = t + 12582912.0f;  // 1.5 * 2^23: the low bits now hold the nearest whole number
  const F<W> f = t - (shifted - 12582912.0f);
  F<W> p = fma<W>(set<W>(0.0013390863364533504f), f, set<W>(0.009676031918326564f));
  p = fma<W>(p, f, set<W>(0.05550357114219461f));
  p = fma<W>(p, f, set<W>(0.24022107485308208f));
  p = fma<W>(p, f, set<W>(0.6931471880262287f));
  p = fma<W>(p, f, set<W>(1.0f));
  return (F<W>)(((I)p + ((I)shifted << 23)) & alive);
}

template <int W>
CAIRN_INLINE F<W> sigmoid(F<W> x) {
  const F<W> d = 1.0f + exp2<W>(x * -1.4426950408889634f);
#if defined(__AVX512F__)
  if constexpr (W == 16) {  // an estimate of 14 bits and one step of Newton's: half the time of a division
    const F<W> r = _mm512_maskz_rcp14_ps(static_cast<__mmask16>(-1), d);
    return fma<W>(fma<W>(-d, r, set<W>(1.0f)), r, r);
  }
#endif
  return 1.0f / d;
}

}  // namespace simd
}  // namespace
}  // namespace cairn
