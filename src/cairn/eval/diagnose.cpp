#include "cairn/eval/diagnose.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>

#include "cairn/core/error.h"
#include "cairn/core/random.h"
#include "cairn/eval/failures.h"
#include "cairn/eval/log_probs.h"
#include "cairn/eval/scoring.h"
#include "cairn/ops/select/select.h"

namespace cairn {
namespace {

// A row that predicts an answer token with a visible source chunk.
struct Row {
  int64_t column = 0;            // of the tokens that are asked
  int64_t visible = 0;           // chunks
  std::vector<int64_t> sources;  // visible source chunks
  int64_t stated = -1;           // the chunk that states the token, if visible
};

std::vector<Row> rows_of(const EvalSample& sample, const ModelConfig& config, int64_t begin) {
  std::vector<Row> rows;
  const int64_t tail_begin = sample.length - std::ssize(sample.tail);
  for (const EvalAnswer& answer : sample.answers) {
    for (int64_t j = 0; j < std::min(answer.end - answer.begin, std::ssize(answer.source)); ++j) {
      const int64_t position = tail_begin + answer.begin + j - 1;
      Row row{position - begin, visible_chunk_count(config, position), visible_sources(config, position, answer.source[j])};
      const std::vector<int64_t> stated = visible_sources(config, position, {answer.source[j][0], -1});
      if (!stated.empty()) row.stated = stated[0];
      if (!row.sources.empty()) rows.push_back(std::move(row));
    }
  }
  return rows;
}

at::Tensor long_tensor(const std::vector<int64_t>& values) {
  return at::tensor(at::ArrayRef<int64_t>(values), at::TensorOptions().dtype(at::kLong));
}

at::Tensor columns_of(const std::vector<Row>& rows) {
  std::vector<int64_t> columns;
  for (const Row& row : rows) columns.push_back(row.column);
  return long_tensor(columns);
}

// log(softmax) of the first n values.
std::vector<double> log_softmax(const float* values, int64_t n) {
  const double most = *std::max_element(values, values + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(values[i] - most);
  std::vector<double> result(n);
  for (int64_t i = 0; i < n; ++i) result[i] = values[i] - most - std::log(sum);
  return result;
}

// The chunks that any retrieval selected at a column.
std::vector<int64_t> selected_at(const std::vector<at::Tensor>& indices, int64_t column) {
  std::vector<int64_t> chunks;
  for (const at::Tensor& index : indices) {
    const at::Tensor row = index[0][column].reshape({-1}).contiguous();
    for (int64_t i = 0; i < row.numel(); ++i) {
      const int64_t chunk = row.data_ptr<int64_t>()[i];
      if (chunk >= 0 && std::find(chunks.begin(), chunks.end(), chunk) == chunks.end()) chunks.push_back(chunk);
    }
  }
  std::sort(chunks.begin(), chunks.end());
  return chunks;
}

bool contains(const std::vector<int64_t>& values, int64_t value) { return std::find(values.begin(), values.end(), value) != values.end(); }

}  // namespace

std::vector<int64_t> source_ranks(const ChunkMemory& memory, const at::Tensor& query, std::span<const int64_t> visible,
                                  std::span<const std::vector<int64_t>> sources) {
  const int64_t R = query.size(1), Q = query.size(2);
  CAIRN_CHECK(query.size(0) == 1 && memory.batch() == 1 && std::ssize(visible) == R && std::ssize(sources) == R, "{} rows", R);
  // Source chunks of each row, the first repeated where there are fewer: [R,1,K].
  size_t most = 1;
  for (const auto& chunks : sources) most = std::max(most, chunks.size());
  std::vector<int64_t> flat;
  for (const auto& chunks : sources) {
    CAIRN_CHECK(!chunks.empty(), "a row without source");
    for (size_t k = 0; k < most; ++k) flat.push_back(chunks[std::min(k, chunks.size() - 1)]);
  }
  const at::Device device = query.device();
  const at::Tensor source = long_tensor(flat).view({R, 1, static_cast<int64_t>(most)}).to(device);
  const at::Tensor end = long_tensor({visible.begin(), visible.end()}).view({R, 1, 1}).to(device);
  const int64_t reach = *std::max_element(visible.begin(), visible.end());
  // The same blocks are scored twice, so that the score of a source is the very number that it is compared with.
  const int64_t block = std::clamp<int64_t>((int64_t{1} << 24) / (R * Q), 64, 16384);
  const auto for_blocks = [&](const std::function<void(int64_t, const at::Tensor&)>& f) {
    memory.for_landmarks([&](int64_t first, const at::Tensor& landmarks) {
      const int64_t count = std::min(landmarks.size(1), std::max<int64_t>(reach - first, 0));
      for (int64_t i = 0; i < count; i += block) {
        f(first + i, landmark_scores(query, landmarks.narrow(1, i, std::min(block, count - i))).select(0, 0).to(at::kFloat));  // [R,Q,n]
      }
    });
  };
  at::Tensor best = at::full({R, Q, 1}, -std::numeric_limits<double>::infinity(), query.options().dtype(at::kFloat));
  for_blocks([&](int64_t first, const at::Tensor& score) {
    const int64_t n = score.size(2);
    const at::Tensor here = (source >= first).logical_and(source < first + n);  // [R,1,K]
    const at::Tensor at_source = score.gather(2, (source - first).clamp(0, n - 1).expand({R, Q, source.size(2)}));
    best = best.maximum(at_source.masked_fill(here.logical_not(), -std::numeric_limits<double>::infinity()).amax(2, true));
  });
  at::Tensor greater = at::full({R, Q}, 0, query.options().dtype(at::kLong));
  for_blocks([&](int64_t first, const at::Tensor& score) {
    const at::Tensor number = at::arange(first, first + score.size(2), source.options());
    greater = greater + (score > best).logical_and(number < end).sum(2);
  });
  const at::Tensor rank = std::get<0>(greater.min(1)).add(1).to(at::kCPU).contiguous();
  return {rank.data_ptr<int64_t>(), rank.data_ptr<int64_t>() + R};
}

void compare_with_mass(const at::Tensor& score, const at::Tensor& lse, std::span<const int64_t> visible, RetrievalDiagnosis* d) {
  const int64_t Q = score.size(1), H = lse.size(1), C = score.size(2);
  CAIRN_CHECK(lse.size(2) == C, "{} masses, {} scores", lse.size(2), C);
  for (size_t r = 0; r < visible.size(); ++r) {
    const int64_t n = visible[r];
    double kl = 0, correlation = 0;
    for (int64_t q = 0; q < Q; ++q) {
      const float* scores = score.data_ptr<float>() + (static_cast<int64_t>(r) * Q + q) * C;
      std::vector<double> mass(n, 0), log_mass(n), raw(scores, scores + n);
      for (int64_t h = q * (H / Q); h < (q + 1) * (H / Q); ++h) {
        const std::vector<double> of_head = log_softmax(lse.data_ptr<float>() + (static_cast<int64_t>(r) * H + h) * C, n);
        for (int64_t i = 0; i < n; ++i) mass[i] += std::exp(of_head[i]) * static_cast<double>(Q) / static_cast<double>(H);
      }
      const std::vector<double> log_p = log_softmax(scores, n);
      for (int64_t i = 0; i < n; ++i) {
        log_mass[i] = std::log(std::max(mass[i], std::numeric_limits<double>::min()));
        kl += mass[i] * (log_mass[i] - log_p[i]) / static_cast<double>(Q);
      }
      correlation += spearman(raw, log_mass) / static_cast<double>(Q);
    }
    d->kl.add(kl);
    if (std::isfinite(correlation)) d->spearman.add(correlation);
  }
}

void diagnose_sample(const Reader& reader, const ReaderState& state, const EvalSample& sample, Diagnosis* diagnosis) {
  const at::NoGradGuard no_gradient;
  CAIRN_CHECK(state.batch() == 1 && reader.uses_memory(), "{} rows", state.batch());
  const int64_t begin = state.position();
  const std::vector<Row> rows = rows_of(sample, reader.model().config(), begin);
  if (rows.empty()) return;
  const at::Tensor tokens = sample_tokens({&sample, 1}, begin, sample.length, reader.device());
  AskOptions ask;
  ask.want_mass = sample.length <= kMassTokens;
  Trace trace;
  const auto asked = state.fork();
  const at::Tensor log_p = next_token_log_probs(reader, *asked, tokens, ask, &trace);

  const at::Tensor columns = columns_of(rows).to(reader.device());
  std::vector<int64_t> visible;
  std::vector<std::vector<int64_t>> sources;
  for (const Row& row : rows) visible.push_back(row.visible), sources.push_back(row.sources);
  diagnosis->retrievals.resize(trace.retrievals.size());
  std::vector<at::Tensor> indices;
  for (size_t r = 0; r < trace.retrievals.size(); ++r) {
    const RetrievalTrace& retrieval = trace.retrievals[r];
    RetrievalDiagnosis& d = diagnosis->retrievals[r];
    const at::Tensor query = retrieval.query.index_select(1, columns);
    const std::vector<int64_t> ranks = source_ranks(asked->memory, query, visible, sources);
    d.ranks.insert(d.ranks.end(), ranks.begin(), ranks.end());
    if (retrieval.lse.defined()) {
      const ChunkMemory& memory = asked->memory;
      std::vector<at::Tensor> scores;
      memory.for_landmarks([&](int64_t, const at::Tensor& landmarks) { scores.push_back(landmark_scores(query, landmarks).select(0, 0)); });
      const at::Tensor lse = retrieval.lse.index_select(1, columns).select(0, 0);
      compare_with_mass(at::cat(scores, 2).to(at::kCPU, at::kFloat).contiguous(), lse.to(at::kCPU, at::kFloat).contiguous(), visible, &d);
    }
    indices.push_back(retrieval.selection.index.to(at::kCPU));
  }

  // Log-probabilities of the tail when `chunk` cannot be chosen.
  const auto without = [&](int64_t chunk) {
    AskOptions off;
    off.excluded = {{chunk}};
    return next_token_log_probs(reader, *state.fork(), tokens, off);
  };
  const auto add_drops = [&](const std::vector<const Row*>& at, int64_t chunk, Mean* mean) {
    const at::Tensor off = without(chunk);
    for (const Row* row : at) {
      if (!contains(selected_at(indices, row->column), chunk)) continue;
      mean->add(static_cast<double>(log_p.data_ptr<float>()[row->column]) - off.data_ptr<float>()[row->column]);
    }
  };
  std::vector<int64_t> done;
  for (const Row& row : rows) {
    const int64_t chunk = row.stated;
    if (chunk < 0 || contains(done, chunk)) continue;
    done.push_back(chunk);
    std::vector<const Row*> at;  // rows whose token stands in this chunk, and that have it
    for (const Row& other : rows) {
      if (other.stated == chunk && contains(selected_at(indices, other.column), chunk)) at.push_back(&other);
    }
    if (at.empty()) continue;
    add_drops(at, chunk, &diagnosis->source_drop);
    std::vector<int64_t> others = selected_at(indices, at[0]->column);
    std::erase_if(others, [&](int64_t c) { return contains(at[0]->sources, c); });
    if (others.empty()) continue;
    Random random(stream_key({static_cast<uint64_t>(sample.index), static_cast<uint64_t>(chunk)}));
    const int64_t drawn = others[random.below(std::ssize(others))];
    std::erase_if(at, [&](const Row* r) { return contains(r->sources, drawn); });
    add_drops(at, drawn, &diagnosis->other_drop);
  }
}

int64_t quantile(std::vector<int64_t> values, double share) {
  CAIRN_CHECK(!values.empty(), "quantile of nothing");
  const int64_t n = std::ssize(values);
  const int64_t at = std::clamp<int64_t>(static_cast<int64_t>(std::ceil(share * static_cast<double>(n) - 1e-9)) - 1, 0, n - 1);
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[at];
}

double spearman(std::span<const double> a, std::span<const double> b) {
  CAIRN_CHECK(a.size() == b.size(), "{} and {} values", a.size(), b.size());
  const auto ranks = [](std::span<const double> x) {
    std::vector<size_t> order(x.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t i, size_t j) { return x[i] < x[j]; });
    std::vector<double> rank(x.size());
    for (size_t i = 0; i < order.size();) {
      size_t j = i;
      while (j < order.size() && x[order[j]] == x[order[i]]) ++j;
      for (size_t k = i; k < j; ++k) rank[order[k]] = static_cast<double>(i + j - 1) / 2;
      i = j;
    }
    return rank;
  };
  const std::vector<double> x = ranks(a), y = ranks(b);
  const double middle = (static_cast<double>(a.size()) - 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - middle) * (y[i] - middle);
    xx += (x[i] - middle) * (x[i] - middle);
    yy += (y[i] - middle) * (y[i] - middle);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace cairn
