// The candidates' side of the route loss (docs/algorithm.md): per token, the log-sum-exp of its scores against every chunk of the batch
// that it may be compared with.
//
//   out[r] = log sum over open m of exp(scale * product[r,m])
//
// Row r = b L + t is token t of sequence b; column m = s C + i is chunk i of sequence s of the (global) batch. Columns of the row's own
// sequence are open where the chunk is visible, (i+1) S <= t; those of other sequences unless states_key[key[r], m].
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace cairn {

struct RouteLayout {
  int64_t length = 0;     // L, tokens a sequence
  int64_t chunks = 0;     // C, chunks a sequence
  int64_t chunk = 64;     // S
  int64_t own_first = 0;  // number of the first row's sequence among all sequences
};

// product [n, sequences C] (bf16, fp32, fp64; differentiable), scale > 0; states_key bool [keys, sequences C] with key int64 [n], or both
// undefined; used: bool [n], n = B L, or int64 [n]: the rows' numbers r, -1: not used. Rows not used cost nothing, their result and
// gradient are 0. Result [n], fp32 (fp64 for fp64). A used row without any open column gives about -1e30.
at::Tensor route_log_sum(const at::Tensor& product, double scale, const RouteLayout& layout, const at::Tensor& states_key,
                         const at::Tensor& key, const at::Tensor& used);
at::Tensor route_log_sum_reference(const at::Tensor& product, double scale, const RouteLayout& layout, const at::Tensor& states_key,
                                   const at::Tensor& key, const at::Tensor& used);

}  // namespace cairn
