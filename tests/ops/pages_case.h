// What the GPU tests of memory attention over pages share.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randperm.h>

#include <algorithm>

#include "cairn/core/random.h"

namespace cairn::testing {

// int64 [B,1,Gi,N] on the GPU: of each sequence and group up to N different of `chunks` chunks from number `first` on, then -1.
inline at::Tensor random_page_index(Random& random, int64_t B, int64_t Gi, int64_t N, int64_t chunks, int64_t first) {
  const at::TensorOptions options = at::TensorOptions(at::kCUDA).dtype(at::kLong);
  at::Tensor index = at::full({B, 1, Gi, N}, -1, options);
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t g = 0; g < Gi; ++g) {
      const int64_t used = std::min({N, chunks, random.below(N + 1)});
      index[b][0][g].narrow(0, 0, used).copy_(at::randperm(chunks, options).narrow(0, 0, used) + first);
    }
  }
  return index;
}

}  // namespace cairn::testing
