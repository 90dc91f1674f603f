#include "cairn/ops/select/int8.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/ops/quantize/rows.h"
#include "cairn/ops/require.h"
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
  constexpr const char* kOp = "select_chunks (8-bit)";
  require_dimensions(kOp, "rq", rq, 4, "[B,L,Q,Dr]");
  CAIRN_CHECK(top_k >= 0, "{}: argument top_k is {}; expected 0 or more", kOp, top_k);
  CAIRN_CHECK(!landmarks.numbers.empty() && landmarks.numbers.size() == landmarks.scale.size(),
              "{}: argument landmarks has {} pages of numbers and {} of scales; expected one each, at least 1", kOp,
              landmarks.numbers.size(), landmarks.scale.size());
  for (size_t i = 0; i < landmarks.numbers.size(); ++i) {
    const at::Tensor& page = landmarks.numbers[i];
    require_dimensions(kOp, "landmarks.numbers", page, 4, "[B,c,Q,Dr]");
    require_sizes(kOp, "landmarks.numbers", page, {rq.size(0), page.size(1), rq.size(2), rq.size(3)}, "[B,c,Q,Dr] with B, Q and Dr of rq");
    require_sizes(kOp, "landmarks.scale", landmarks.scale[i], page.sizes().slice(0, 3), "[B,c,Q] of the numbers");
    require_type(kOp, "landmarks.numbers", page, at::kChar);
    require_type(kOp, "landmarks.scale", landmarks.scale[i], at::kBFloat16);
    require_device(kOp, "landmarks.numbers", page, "rq", rq);
    require_device(kOp, "landmarks.scale", landmarks.scale[i], "rq", rq);
  }
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
