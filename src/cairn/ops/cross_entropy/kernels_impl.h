// The source of the cross-entropy kernels, included once for each instruction set. See kernels.h.
#pragma once

#include "cairn/ops/cross_entropy/kernels.h"
#include "cairn/ops/simd/simd.h"

namespace cairn {
namespace {

constexpr float kLog2e = 1.4426950408889634f;

void logit_statistics(const float* x, int64_t vocab, float* lse, int64_t* best) {
  using namespace simd;
  constexpr int W = kWidth;
  using I = typename Lanes<W>::I;
  F<W> top = set<W>(-__builtin_inff());
  I block = {};  // which vector holds each lane's largest
  int64_t i = 0;
  for (int32_t v = 0; i + W <= vocab; i += W, ++v) {
    const F<W> value = load<W>(x + i);
    const I better = value > top;
    top = better ? value : top;
    block = better ? I{} + v : block;
  }
  float most = i > 0 ? max<W>(top) : x[0];
  int64_t place = i > 0 ? vocab : 0;
  for (int lane = 0; lane < W && i > 0; ++lane)
    if (top[lane] == most && static_cast<int64_t>(block[lane]) * W + lane < place) place = static_cast<int64_t>(block[lane]) * W + lane;
  for (int64_t j = i; j < vocab; ++j)
    if (x[j] > most) {
      most = x[j];
      place = j;
    }
  F<W> total = {};
  for (i = 0; i + W <= vocab; i += W) total += exp2<W>((load<W>(x + i) - most) * kLog2e);
  float all = sum<W>(total);
  for (; i < vocab; ++i) all += exp2<1>((load<1>(x + i) - most) * kLog2e)[0];
  *lse = most + __builtin_logf(all);
  *best = place;
}

void logit_gradient(float* x, int64_t vocab, float lse, int64_t target, float g) {
  using namespace simd;
  constexpr int W = kWidth;
  int64_t i = 0;
  for (; i + W <= vocab; i += W) store<W>(x + i, exp2<W>((load<W>(x + i) - lse) * kLog2e) * g);
  for (; i < vocab; ++i) store<1>(x + i, exp2<1>((load<1>(x + i) - lse) * kLog2e) * g);
  x[target] -= g;
}

constexpr CrossEntropyKernels kCrossEntropyKernels = {logit_statistics, logit_gradient};

}  // namespace
}  // namespace cairn
