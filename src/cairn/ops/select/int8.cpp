#include "cairn/ops/select/int8.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/ops/quantize/rows.h"
#include "cairn/ops/select/few_rows.h"
#include "cairn/ops/step/kernels.h"

namespace cairn {

int64_t Int8Landmarks::chunks() const {
  int64_t total = 0;
  for (const at::Tensor& page : numbers) total += page.size(1);
  return total;
}

Selection select_dequantized(const at::Tensor& rq, const Int8Landmarks& landmarks, int64_t top_k, const Visibility& visibility,
                             int64_t numbers_at_once) {
  const int64_t n = std::min(top_k, landmarks.chunks());
  at::Tensor best;  // keys of the best so far
  Selection only;
  int64_t begin = 0;
  for (size_t p = 0; p < landmarks.numbers.size();) {
    std::vector<at::Tensor> part;
    int64_t chunks = 0, numbers = 0;
    for (; p < landmarks.numbers.size(); ++p) {
      const at::Tensor &its = landmarks.numbers[p], &scale = landmarks.scale[p];
      const bool shared = its.size(0) > 1 && its.stride(0) == 0;  // one memory for all rows: it is dequantised once
      const int64_t more = shared ? its.numel() / its.size(0) : its.numel();
      if (!part.empty() && numbers + more > numbers_at_once) break;
      const at::Tensor made = dequantize_rows(shared ? its.narrow(0, 0, 1) : its, shared ? scale.narrow(0, 0, 1) : scale, rq.scalar_type());
      part.push_back(shared ? made.expand(its.sizes()) : made);
      chunks += its.size(1), numbers += more;
    }
    Visibility here = visibility;
    here.first_chunk += begin;
    Selection found = select_chunks(rq, part, n, here);
    found.index = at::where(found.index >= 0, found.index + begin, found.index);
    begin += chunks;
    if (!best.defined() && p == landmarks.numbers.size() && found.index.size(3) == n) return found;
    const at::Tensor keys = selection_keys(found, n);
    best = best.defined() ? selection_keys(selection_of_keys(at::cat({best, keys}, -1), n), n) : keys;
  }
  CAIRN_CHECK(best.defined(), "no landmarks");
  return selection_of_keys(best, n);
}

Selection select_chunks(const at::Tensor& rq, const Int8Landmarks& landmarks, int64_t top_k, const Visibility& visibility) {
  CAIRN_CHECK(rq.dim() == 4 && !landmarks.numbers.empty() && landmarks.numbers.size() == landmarks.scale.size(),
              "rq of {} dimensions, {} pages of landmarks, {} of scales", rq.dim(), landmarks.numbers.size(), landmarks.scale.size());
  const int64_t n = std::min(top_k, landmarks.chunks());
  if (n > 0 && rq.size(1) > 0) {
    if (few_rows_serve(rq, landmarks)) return select_few_rows(rq, landmarks, n, visibility);
    const StepKernels* own = rq.is_cuda() ? step_kernels() : nullptr;
    if (own != nullptr && own->select_int8_supports != nullptr && own->select_int8_supports(rq, landmarks, n)) {
      return own->select_int8(rq, landmarks, n, visibility);
    }
  }
  return select_dequantized(rq, landmarks, top_k, visibility);
}

}  // namespace cairn
