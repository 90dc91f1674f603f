// CPU kernels of cross-entropy on rows of fp32 logits. Inside ops/cross_entropy only.
#pragma once

#include <cstdint>

namespace cairn {

struct CrossEntropyKernels {
  // lse = log sum exp(x); best = the first place of the largest number.
  void (*statistics)(const float* x, int64_t vocab, float* lse, int64_t* best);
  // x = g (exp(x - lse) - [place == target]), in place.
  void (*gradient)(float* x, int64_t vocab, float lse, int64_t target, float g);
};

const CrossEntropyKernels& cross_entropy_kernels();

extern const CrossEntropyKernels cross_entropy_kernels_generic, cross_entropy_kernels_avx2, cross_entropy_kernels_avx512;

}  // namespace cairn
