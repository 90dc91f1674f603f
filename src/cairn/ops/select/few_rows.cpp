#include "cairn/ops/select/few_rows.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "cairn/core/error.h"

namespace cairn {
namespace {

constexpr int64_t kFewRows = 32;  // beyond, the matrix product of all rows at once is faster
constexpr int64_t kGrain = 1024;  // landmarks a thread takes at a time
constexpr int kLanes = 16;

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CAIRN_VECTORS __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#else
#define CAIRN_VECTORS
#endif

// score[i] = q . x[i], x of `count` rows with `stride` numbers between; sums run in 16 lanes, so they do not depend on the machine's
// vectors.
CAIRN_VECTORS void dots(const float* q, const float* x, int64_t stride, int64_t count, int64_t width, float* score) {
  for (int64_t i = 0; i < count; ++i, x += stride) {
    float lanes[kLanes] = {};
    int64_t j = 0;
    for (; j + kLanes <= width; j += kLanes) {
      for (int l = 0; l < kLanes; ++l) lanes[l] += q[j + l] * x[j + l];
    }
    float sum = 0;
    for (; j < width; ++j) sum += q[j] * x[j];
    for (int l = 0; l < kLanes; ++l) sum += lanes[l];
    score[i] = sum;
  }
}

CAIRN_VECTORS void dots(const float* q, const uint16_t* x, int64_t stride, int64_t count, int64_t width, float* score) {
  for (int64_t i = 0; i < count; ++i, x += stride) {
    float lanes[kLanes] = {};
    int64_t j = 0;
    for (; j + kLanes <= width; j += kLanes) {
      uint32_t bits[kLanes];
      float number[kLanes];
      for (int l = 0; l < kLanes; ++l) bits[l] = static_cast<uint32_t>(x[j + l]) << 16;  // bf16 is the upper half of fp32
      std::memcpy(number, bits, sizeof(bits));
      for (int l = 0; l < kLanes; ++l) lanes[l] += q[j + l] * number[l];
    }
    float sum = 0;
    for (; j < width; ++j) {
      const uint32_t bits = static_cast<uint32_t>(x[j]) << 16;
      float number;
      std::memcpy(&number, &bits, sizeof(number));
      sum += q[j] * number;
    }
    for (int l = 0; l < kLanes; ++l) sum += lanes[l];
    score[i] = sum;
  }
}

// An 8-bit row as the fp32 numbers for which it stands. The products are then made by the function above: what is vectorised otherwise
// may round elsewhere.
CAIRN_VECTORS void widen(const int8_t* x, float scale, int64_t width, float* to) {
  for (int64_t j = 0; j < width; ++j) to[j] = static_cast<float>(x[j]) * scale;
}

void dots(const float* q, const int8_t* x, int64_t stride, const uint16_t* scale, int64_t scale_stride, int64_t count, int64_t width,
          float* score) {
  std::vector<float> row(static_cast<size_t>(width));
  for (int64_t i = 0; i < count; ++i, x += stride, scale += scale_stride) {
    const uint32_t bits = static_cast<uint32_t>(*scale) << 16;
    float its_scale;
    std::memcpy(&its_scale, &bits, sizeof(its_scale));
    widen(x, its_scale, width, row.data());
    dots(q, row.data(), width, 1, width, score + i);
  }
}

// The better one comes first: higher score, then the more recent chunk. NaN counts as the lowest score.
using Scored = std::pair<float, int64_t>;
bool better(const Scored& a, const Scored& b) { return a.first != b.first ? a.first > b.first : a.second > b.second; }

bool few(const at::Tensor& rq) {
  return rq.is_cpu() && rq.scalar_type() != at::kDouble && rq.size(0) * rq.size(1) * rq.size(2) <= kFewRows;
}

// scale: of int8 pages.
Selection select_rows(const at::Tensor& rq_in, const std::vector<at::Tensor>& pages, const std::vector<at::Tensor>* scale, int64_t n,
                      const Visibility& visibility) {
  const int64_t B = rq_in.size(0), L = rq_in.size(1), Q = rq_in.size(2), width = rq_in.size(3);
  const at::Tensor rq = (rq_in.to(at::kFloat) / std::sqrt(static_cast<double>(width))).contiguous();
  int64_t chunks = 0;
  for (const at::Tensor& page : pages) chunks += page.size(1);
  CAIRN_CHECK(n >= 1 && n <= chunks, "{} of {} chunks", n, chunks);
  Selection out;
  out.index = at::full({B, L, Q, n}, -1, rq.options().dtype(at::kLong));
  out.score = at::zeros({B, L, Q, n}, rq.options());
  std::vector<float> score(chunks);
  for (int64_t row = 0; row < B * L * Q; ++row) {
    const int64_t b = row / (L * Q), t = row / Q % L, q = row % Q;
    const int64_t bound = visibility.first_position + t + (visibility.exclude_window > 0 ? 1 - visibility.exclude_window : 0);
    const int64_t visible = std::clamp<int64_t>(std::max<int64_t>(bound, 0) / visibility.chunk - visibility.first_chunk, 0, chunks);
    const float* query = rq.const_data_ptr<float>() + row * width;
    int64_t first = 0;
    for (size_t p = 0; p < pages.size(); ++p) {
      const at::Tensor& page = pages[p];
      const int64_t count = std::clamp<int64_t>(visible - first, 0, page.size(1)), stride = page.stride(1);
      const int64_t offset = b * page.stride(0) + q * page.stride(2);
      at::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
        float* to = score.data() + first + begin;
        if (scale != nullptr) {
          const at::Tensor& its = (*scale)[p];
          const auto* from =
              static_cast<const uint16_t*>(its.const_data_ptr()) + b * its.stride(0) + begin * its.stride(1) + q * its.stride(2);
          dots(query, page.const_data_ptr<int8_t>() + offset + begin * stride, stride, from, its.stride(1), end - begin, width, to);
        } else if (page.scalar_type() == at::kFloat) {
          dots(query, page.const_data_ptr<float>() + offset + begin * stride, stride, end - begin, width, to);
        } else {
          dots(query, static_cast<const uint16_t*>(page.const_data_ptr()) + offset + begin * stride, stride, end - begin, width, to);
        }
      });
      first += page.size(1);
    }
    // The n best so far as a heap with the worst on top.
    std::vector<Scored> best;
    for (int64_t i = 0; i < visible; ++i) {
      const Scored one(std::isnan(score[i]) ? std::numeric_limits<float>::lowest() : score[i], i);
      if (static_cast<int64_t>(best.size()) < n) {
        best.push_back(one);
        std::push_heap(best.begin(), best.end(), better);
      } else if (better(one, best.front())) {
        std::pop_heap(best.begin(), best.end(), better);
        best.back() = one;
        std::push_heap(best.begin(), best.end(), better);
      }
    }
    std::sort(best.begin(), best.end(), [](const Scored& x, const Scored& y) { return x.second > y.second; });
    int64_t* index = out.index.mutable_data_ptr<int64_t>() + row * n;
    float* clean = out.score.mutable_data_ptr<float>() + row * n;
    for (size_t i = 0; i < best.size(); ++i) {
      index[i] = best[i].second;
      clean[i] = score[best[i].second];
    }
  }
  return out;
}

}  // namespace

bool few_rows_serve(const at::Tensor& rq, const std::vector<at::Tensor>& pages) {
  if (!few(rq)) return false;
  return std::all_of(pages.begin(), pages.end(), [](const at::Tensor& page) {
    return (page.scalar_type() == at::kFloat || page.scalar_type() == at::kBFloat16) && page.stride(3) == 1;
  });
}

bool few_rows_serve(const at::Tensor& rq, const Int8Landmarks& landmarks) {
  return few(rq) &&
         std::all_of(landmarks.numbers.begin(), landmarks.numbers.end(), [](const at::Tensor& page) { return page.stride(3) == 1; });
}

Selection select_few_rows(const at::Tensor& rq, const std::vector<at::Tensor>& pages, int64_t n, const Visibility& visibility) {
  return select_rows(rq, pages, nullptr, n, visibility);
}

Selection select_few_rows(const at::Tensor& rq, const Int8Landmarks& landmarks, int64_t n, const Visibility& visibility) {
  return select_rows(rq, landmarks.numbers, &landmarks.scale, n, visibility);
}

}  // namespace cairn
