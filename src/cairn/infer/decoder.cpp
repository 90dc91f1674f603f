#include "cairn/infer/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <algorithm>

#include "cairn/core/error.h"
#include "cairn/infer/graph_decoder.h"

namespace cairn {

std::vector<std::vector<int32_t>> generate(const Reader& reader, ReaderState& state, const at::Tensor& given,
                                           const std::vector<int64_t>& begin, const std::vector<int64_t>& end) {
  const at::NoGradGuard no_gradient;
  const int64_t rows = given.size(0);
  CAIRN_CHECK(static_cast<int64_t>(begin.size()) == rows && begin.size() == end.size(), "{} begins, {} rows", begin.size(), rows);
  const int64_t first = *std::min_element(begin.begin(), begin.end()), last = *std::max_element(end.begin(), end.end());
  CAIRN_CHECK(first >= 1 && last <= given.size(1), "columns {} .. {} of {}", first, last, given.size(1));
  if (first >= last) return std::vector<std::vector<int32_t>>(rows);

  const at::Tensor ids = given.to(reader.device());
  const at::Tensor begins = at::tensor(at::ArrayRef<int64_t>(begin), at::TensorOptions().dtype(at::kLong)).to(reader.device());
  at::Tensor next = reader.advance_last(state, ids.narrow(1, 0, first), 1).select(1, 0).argmax(-1);
  std::vector<at::Tensor> columns;
  StepDecoder steps(reader, state, last - first);
  for (int64_t column = first; column < last; ++column) {
    // No number comes back to the host in this loop: a GPU is never waited for.
    const at::Tensor token = at::where(begins <= column, next, ids.select(1, column));
    columns.push_back(token);
    if (column + 1 < last) {
      steps.advance(token.unsqueeze(1));
      next = steps.best().select(1, 0);
    }
  }
  steps.finish();
  const at::Tensor made = at::stack(columns, 1).to(at::kCPU, at::kInt).contiguous();
  std::vector<std::vector<int32_t>> result(rows);
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t* tokens = made.data_ptr<int32_t>() + row * (last - first);
    if (begin[row] < end[row]) result[row].assign(tokens + (begin[row] - first), tokens + (end[row] - first));
  }
  return result;
}

std::vector<std::vector<int32_t>> generate(const Reader& reader, ReaderState& state, const at::Tensor& prompt, int64_t count) {
  const int64_t rows = prompt.size(0), length = prompt.size(1);
  return generate(reader, state, at::constant_pad_nd(prompt, {0, count}, 0), std::vector<int64_t>(rows, length),
                  std::vector<int64_t>(rows, length + count));
}

}  // namespace cairn
