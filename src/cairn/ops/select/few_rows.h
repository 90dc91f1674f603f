// Selection for a handful of queries on a CPU: decoding. Every landmark is read once, in its own dtype; nothing of its size is made but the
// scores of one row. Private to select.
#pragma once

#include <vector>

#include "cairn/ops/select/int8.h"
#include "cairn/ops/select/select.h"

namespace cairn {

// True for few enough rows (B L Q) of fp32 queries against fp32 or bf16 landmarks [B,c_j,Q,Dr] with contiguous rows on a CPU.
bool few_rows_serve(const at::Tensor& rq, const std::vector<at::Tensor>& pages);
bool few_rows_serve(const at::Tensor& rq, const Int8Landmarks& landmarks);

// As select_chunks(): n = min(top_k, C) >= 1.
Selection select_few_rows(const at::Tensor& rq, const std::vector<at::Tensor>& pages, int64_t n, const Visibility& visibility);
// Bit for bit what the dequantised landmarks in fp32 give.
Selection select_few_rows(const at::Tensor& rq, const Int8Landmarks& landmarks, int64_t n, const Visibility& visibility);

}  // namespace cairn
