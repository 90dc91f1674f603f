#include "cairn/ops/select/select.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/require.h"
#include "cairn/ops/select/few_rows.h"
#include "cairn/ops/select/noise.h"

namespace cairn {
namespace {

// Visible chunks of a row are a prefix of all chunks: i is visible iff (i+1) S <= bound, bound = t, or t - W + 1 with exclude_window.
int64_t bound_shift(const Visibility& v) { return v.exclude_window > 0 ? 1 - v.exclude_window : 0; }

// Position -1 stands for the row before a text: it sees nothing (retrieval_stride = chunk, first chunk).
void check_visibility(const Visibility& v) {
  CAIRN_CHECK(
      v.chunk >= 1 && v.first_position >= -1 && v.first_chunk >= 0 && v.exclude_window >= 0,
      "selection: argument visibility is chunk {}, first_position {}, first_chunk {}, exclude_window {}; expected at least 1, -1, 0, 0",
      v.chunk, v.first_position, v.first_chunk, v.exclude_window);
}

// Number of visible landmarks of row `row`.
int64_t visible_count(int64_t row, int64_t chunks, const Visibility& v) {
  const int64_t bound = std::max<int64_t>(v.first_position + row + bound_shift(v), 0);
  return std::clamp<int64_t>(bound / v.chunk - v.first_chunk, 0, chunks);
}

// The same for all rows: int64 [L].
at::Tensor visible_counts(int64_t rows, int64_t chunks, const Visibility& v, at::Device device) {
  const at::Tensor t = at::arange(rows, at::TensorOptions(at::kLong).device(device)) + (v.first_position + bound_shift(v));
  return (t.clamp_min(0).div(v.chunk, "floor") - v.first_chunk).clamp(0, chunks);
}

void require_landmarks(const char* op, const at::Tensor& rq, const at::Tensor& landmarks) {
  require_dimensions(op, "rq", rq, 4, "[B,L,Q,Dr]");
  require_dimensions(op, "landmarks", landmarks, 4, "[B,C,Q,Dr]");
  require_sizes(op, "landmarks", landmarks, {rq.size(0), landmarks.size(1), rq.size(2), rq.size(3)}, "[B,C,Q,Dr] with B, Q and Dr of rq");
  require_device(op, "landmarks", landmarks, "rq", rq);
}

constexpr int64_t kSignFlip = 0x7fffffff;
constexpr int64_t kNoKey = std::numeric_limits<int64_t>::min();  // below every score's key

// fp32 scores -> int64 keys that compare like (score, chunk number): equal scores fall to the more recent chunk, no two keys of a row are
// equal, so any top-k on any device gives the same answer. Adding 0 makes -0 and +0 one score.
at::Tensor keys_of(const at::Tensor& score, const at::Tensor& number) {
  const at::Tensor bits = (score + 0.0).contiguous().view(at::kInt);
  const at::Tensor ordered = bits.bitwise_xor(bits.bitwise_right_shift(31).bitwise_and(kSignFlip));
  return ordered.to(at::kLong).mul(int64_t{1} << 32) + number;
}

at::Tensor make_keys(const at::Tensor& score, int64_t first) {
  return keys_of(score, at::arange(first, first + score.size(-1), score.options().dtype(at::kLong)));
}

at::Tensor number_of(const at::Tensor& keys) { return keys.bitwise_and(int64_t{0xffffffff}); }

at::Tensor score_of(const at::Tensor& keys) {
  const at::Tensor ordered = keys.bitwise_right_shift(32).to(at::kInt);
  return ordered.bitwise_xor(ordered.bitwise_right_shift(31).bitwise_and(kSignFlip)).contiguous().view(at::kFloat);
}

at::Tensor best_keys(const at::Tensor& keys, int64_t n) {
  return keys.size(-1) <= n ? keys : std::get<0>(keys.topk(n, -1, /*largest=*/true, /*sorted=*/false));
}

// counts [L] -> [L,1,1], so that it broadcasts against [B,L,Q,N].
at::Tensor as_rows(const at::Tensor& counts) { return counts.view({-1, 1, 1}); }

// Every visible chunk of every row, nearest first.
at::Tensor all_visible(int64_t B, int64_t L, int64_t Q, int64_t C, const at::Tensor& counts) {
  const at::Tensor slot = at::arange(C, counts.options());
  return (as_rows(counts) - 1 - slot).clamp_min(-1).expand({B, L, Q, C}).contiguous();
}

// -inf where not visible. A visible score of -inf must not tie with that.
at::Tensor masked(const at::Tensor& score, int64_t first, const at::Tensor& counts) {
  const at::Tensor number = at::arange(first, first + score.size(-1), counts.options());
  return score.clamp_min(std::numeric_limits<float>::lowest())
      .masked_fill_(number.ge(as_rows(counts)), -std::numeric_limits<double>::infinity());
}

// Drops what is not visible after all (rows with fewer than N visible chunks) and sorts nearest first.
at::Tensor tidy(const at::Tensor& number, const at::Tensor& counts) {
  const at::Tensor kept = at::where(number.lt(as_rows(counts)), number, at::full({}, -1, number.options()));
  return std::get<0>(kept.sort(-1, /*descending=*/true));
}

at::Tensor scores_at(const at::Tensor& score, const at::Tensor& index) {
  if (index.size(-1) == 0) return at::zeros(index.sizes(), score.options());
  return score.gather(-1, index.clamp_min(0)).masked_fill(index.lt(0), 0);
}

// Scores in fp32 of bf16 operands on a GPU, whose products give fp32 from them: nothing is copied to fp32 first. Gradients of the scores
// are rounded to bf16 before their products, like all others.
struct ShortScores : torch::autograd::Function<ShortScores> {
  using Context = torch::autograd::AutogradContext;
  using List = torch::autograd::variable_list;
  static at::Tensor by_head(const at::Tensor& x) { return x.transpose(1, 2).reshape({x.size(0) * x.size(2), x.size(1), x.size(3)}); }
  static at::Tensor by_row(const at::Tensor& x, int64_t Q) {  // [B Q, L, n] -> [B,L,Q,n]
    return x.view({x.size(0) / Q, Q, x.size(1), x.size(2)}).transpose(1, 2).contiguous();
  }
  static double scale(const at::Tensor& rq) { return 1 / std::sqrt(static_cast<double>(rq.size(3))); }

  static at::Tensor forward(Context* context, const at::Tensor& rq, const at::Tensor& landmarks) {
    context->save_for_backward({rq, landmarks});
    const at::Tensor score = at::bmm(by_head(rq), by_head(landmarks).transpose(1, 2), at::kFloat);
    return by_row(score, rq.size(2)).mul_(scale(rq));
  }
  static List backward(Context* context, List grads) {
    const List saved = context->get_saved_variables();
    const at::Tensor &rq = saved[0], &landmarks = saved[1];
    const at::Tensor g = by_head((grads[0] * scale(rq)).to(at::kBFloat16));
    return {by_row(at::bmm(g, by_head(landmarks)), rq.size(2)), by_row(at::bmm(g.transpose(1, 2), by_head(rq)), rq.size(2))};
  }
};

}  // namespace

at::Tensor visible_chunks(int64_t rows, int64_t chunks, const Visibility& visibility, at::Device device) {
  check_visibility(visibility);
  const at::Tensor counts = visible_counts(rows, chunks, visibility, device);
  return at::arange(chunks, counts.options()).lt(counts.unsqueeze(1));
}

at::Tensor landmark_scores(const at::Tensor& rq, const at::Tensor& landmarks) {
  require_landmarks("landmark_scores", rq, landmarks);
  if (rq.is_cuda() && rq.scalar_type() == at::kBFloat16 && landmarks.scalar_type() == at::kBFloat16 &&
      (rq.size(0) == 1 || landmarks.stride(0) != 0)) {
    return ShortScores::apply(rq, landmarks);
  }
  // bf16 products would be rounded to bf16, which makes ties of scores that differ: score in fp32.
  const auto work = rq.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor scaled = rq.to(work) / std::sqrt(static_cast<double>(rq.size(3)));
  if (rq.size(0) > 1 && landmarks.stride(0) == 0) {  // one memory for all rows: it is not repeated
    const int64_t B = rq.size(0), L = rq.size(1), Q = rq.size(2);
    const at::Tensor rows = scaled.permute({2, 0, 1, 3}).reshape({Q, B * L, rq.size(3)});
    const at::Tensor score = at::matmul(rows, landmarks.select(0, 0).to(work).permute({1, 2, 0}));
    return score.view({Q, B, L, landmarks.size(1)}).permute({1, 2, 0, 3}).contiguous();
  }
  return at::matmul(scaled.transpose(1, 2), landmarks.to(work).permute({0, 2, 3, 1})).transpose(1, 2).contiguous();
}

Selection select_from_scores(const at::Tensor& score_in, int64_t top_k, const Visibility& visibility, uint64_t noise_key,
                             int64_t first_row) {
  require_dimensions("select_from_scores", "score", score_in, 4, "[B,L,Q,C]");
  CAIRN_CHECK(top_k >= 0, "select_from_scores: argument top_k is {}; expected 0 or more", top_k);
  check_visibility(visibility);
  const at::Tensor clean = score_in.detach();
  const int64_t B = clean.size(0), L = clean.size(1), Q = clean.size(2), C = clean.size(3), n = std::min(top_k, C);
  CAIRN_CHECK(C < (int64_t{1} << 31), "{} chunks", C);
  const CudaKernels* kernels = clean.is_cuda() && n < C && n > 0 ? cuda_kernels() : nullptr;
  if (kernels != nullptr && kernels->select_given_supports != nullptr && kernels->select_given_supports(clean, n)) {
    return kernels->select_given(clean, n, visibility, noise_key, first_row);
  }
  const at::Tensor counts = visible_counts(L, C, visibility, clean.device());
  Selection out;
  if (n == C || n == 0 || L == 0) {  // nothing to choose: scores and noise do not matter
    out.index = n == C ? all_visible(B, L, Q, C, counts) : at::empty({B, L, Q, n}, counts.options());
  } else {
    at::Tensor score = clean.scalar_type() == at::kDouble ? clean : clean.to(at::kFloat);
    if (noise_key != 0) {
      score = score + gumbel_noise(noise_key, B, L, Q, C, visibility.first_position, visibility.first_chunk, clean.device(), first_row);
    }
    score = masked(score, 0, counts);
    at::Tensor number;
    if (score.scalar_type() == at::kDouble) {  // no room for a chunk number beside 64 bits of score: most recent first and a stable sort
      const at::Tensor order = std::get<1>(score.flip(-1).sort(/*stable=*/true, -1, /*descending=*/true));
      number = (C - 1) - order.narrow(-1, 0, n);
    } else {
      number = number_of(best_keys(make_keys(score, 0), n));
    }
    out.index = tidy(number, counts);
  }
  out.score = scores_at(clean.to(at::kFloat), out.index);
  return out;
}

Selection select_chunks(const at::Tensor& rq, const at::Tensor& landmarks, int64_t top_k, const Visibility& visibility) {
  return select_chunks(rq, std::vector<at::Tensor>{landmarks}, top_k, visibility);
}

at::Tensor selection_keys(const Selection& selection, int64_t slots) {
  const at::Tensor& index = selection.index;
  CAIRN_CHECK(index.dim() == 4 && index.size(3) <= slots, "a selection of {} slots in {}", index.size(3), slots);
  const at::Tensor keys = keys_of(selection.score, index).masked_fill(index.lt(0), kNoKey);
  return at::constant_pad_nd(keys, {0, slots - index.size(3)}, kNoKey);
}

Selection selection_of_keys(const at::Tensor& keys, int64_t n) {
  CAIRN_CHECK(keys.dim() == 4 && keys.size(3) >= n, "{} of {} keys", n, keys.size(3));
  const at::Tensor best = best_keys(keys, n);
  const at::Tensor number = number_of(best).masked_fill(best.eq(kNoKey), -1);
  const auto [index, order] = number.sort(-1, /*descending=*/true);
  return {index, score_of(best.gather(-1, order)).masked_fill(index.lt(0), 0)};
}

namespace {

// One block of rows against all pages.
Selection select_rows(const at::Tensor& rq, const std::vector<at::Tensor>& pages, int64_t C, int64_t n, const Visibility& visibility) {
  const int64_t B = rq.size(0), L = rq.size(1), Q = rq.size(2);
  const at::Tensor counts = visible_counts(L, C, visibility, rq.device());
  const int64_t reach = visible_count(L - 1, C, visibility);  // later rows see at least as much as earlier ones
  const int64_t block = std::clamp<int64_t>((int64_t{1} << 24) / std::max<int64_t>(B * L * Q, 1), 512, 16384);
  at::Tensor best;  // keys [B,L,Q,<=n]
  int64_t first = 0;
  for (const at::Tensor& page : pages) {
    const int64_t end = std::min(page.size(1), std::max<int64_t>(reach - first, 0));
    for (int64_t i = 0; i < end; i += block) {
      const at::Tensor score = landmark_scores(rq, page.narrow(1, i, std::min(block, end - i)));
      const at::Tensor keys = best_keys(make_keys(masked(score.to(at::kFloat), first + i, counts), first + i), n);
      best = best.defined() ? best_keys(at::cat({best, keys}, -1), n) : keys;
    }
    first += page.size(1);
  }
  Selection out;
  out.index = at::full({B, L, Q, n}, -1, counts.options());
  out.score = at::zeros({B, L, Q, n}, counts.options().dtype(at::kFloat));
  if (!best.defined()) return out;
  // As integers (number, score bits) travel together: sort by number with what is invisible at the end, then take the scores along.
  const at::Tensor number = number_of(best);
  const at::Tensor kept = at::where(number.lt(as_rows(counts)), number, at::full({}, -1, number.options()));
  const auto [index, order] = kept.sort(-1, /*descending=*/true);
  const int64_t have = best.size(-1);
  out.index.narrow(-1, 0, have).copy_(index);
  out.score.narrow(-1, 0, have).copy_(score_of(best).gather(-1, order).masked_fill(index.lt(0), 0));
  return out;
}

}  // namespace

Selection select_chunks(const at::Tensor& rq_in, const std::vector<at::Tensor>& pages, int64_t top_k, const Visibility& visibility) {
  require_dimensions("select_chunks", "rq", rq_in, 4, "[B,L,Q,Dr]");
  CAIRN_CHECK(top_k >= 0, "select_chunks: argument top_k is {}; expected 0 or more", top_k);
  for (const at::Tensor& page : pages) require_landmarks("select_chunks", rq_in, page);
  check_visibility(visibility);
  const at::Tensor rq = rq_in.detach();
  int64_t C = 0;
  for (const at::Tensor& page : pages) C += page.size(1);
  CAIRN_CHECK(C < (int64_t{1} << 31), "{} chunks", C);
  const int64_t B = rq.size(0), L = rq.size(1), Q = rq.size(2), n = std::min(top_k, C);
  if (n > 0 && L > 0 && few_rows_serve(rq, pages)) return select_few_rows(rq, pages, n, visibility);
  const CudaKernels* kernels = n > 0 && L > 0 && rq.is_cuda() ? cuda_kernels() : nullptr;
  if (kernels != nullptr && kernels->select_supports != nullptr && kernels->select_supports(rq, pages, n, visibility)) {
    return kernels->select_chunks(rq, pages, n, visibility);
  }
  const int64_t rows = 2048;
  std::vector<at::Tensor> index, score;
  for (int64_t t = 0; t < L && n > 0; t += rows) {
    Visibility at_t = visibility;
    at_t.first_position += t;
    Selection part = select_rows(rq.narrow(1, t, std::min(rows, L - t)), pages, C, n, at_t);
    index.push_back(std::move(part.index)), score.push_back(std::move(part.score));
  }
  Selection out;
  const at::TensorOptions options = rq.options();
  out.index = index.empty() ? at::empty({B, L, Q, n}, options.dtype(at::kLong)) : index.size() == 1 ? index[0] : at::cat(index, 1);
  out.score = score.empty() ? at::empty({B, L, Q, n}, options.dtype(at::kFloat)) : score.size() == 1 ? score[0] : at::cat(score, 1);
  return out;
}

}  // namespace cairn
