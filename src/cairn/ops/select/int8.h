// Landmark selection (select.h) among landmarks that are kept as 8-bit rows (ops/quantize/rows.h): that among the landmarks which they
// stand for.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "cairn/ops/select/select.h"

namespace cairn {

// Pages in order: numbers int8 [B,c_j,Q,Dr] and their scales bf16 [B,c_j,Q].
struct Int8Landmarks {
  std::vector<at::Tensor> numbers, scale;
  int64_t chunks() const;
};

// As select_chunks(). Few rows read the landmarks as they lie: sum of the products with the numbers, in fp32, times the scale. Others
// (the tail of a question) dequantise some 64 MB of them at a time to rq's dtype and merge what each part gives.
Selection select_chunks(const at::Tensor& rq, const Int8Landmarks& landmarks, int64_t top_k, const Visibility& visibility);
// The same by the second way, for any rows; numbers_at_once: of landmarks that are dequantised together (at least one page).
Selection select_dequantized(const at::Tensor& rq, const Int8Landmarks& landmarks, int64_t top_k, const Visibility& visibility,
                             int64_t numbers_at_once = int64_t{1} << 25);

}  // namespace cairn
