#include "cairn/infer/answer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "cairn/core/error.h"
#include "cairn/core/random.h"
#include "cairn/infer/graph_decoder.h"
#include "cairn/text/utf8.h"

namespace cairn {
namespace {

// The chunks that row `row` read at column `column` of the trace.
std::vector<ChunkRead> reads_of(const Trace& trace, int64_t row, int64_t column) {
  std::vector<ChunkRead> reads;
  for (size_t r = 0; r < trace.retrievals.size(); ++r) {
    const RetrievalTrace& retrieval = trace.retrievals[r];
    if (!retrieval.weight.defined() || retrieval.selection.index.size(-1) == 0) continue;
    const at::Tensor index = retrieval.selection.index[row][column].to(at::kCPU).contiguous();      // [Q,N]
    const at::Tensor weight = retrieval.weight[row][column].to(at::kCPU, at::kFloat).contiguous();  // [Q or H,N]
    const int64_t groups = index.size(0), heads = weight.size(0), slots = index.size(1);
    std::vector<ChunkRead> found;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t* chunks = index.const_data_ptr<int64_t>() + h * groups / heads * slots;
      const float* weights = weight.const_data_ptr<float>() + h * slots;
      for (int64_t n = 0; n < slots; ++n) {
        if (chunks[n] < 0) continue;
        auto at = std::find_if(found.begin(), found.end(), [&](const ChunkRead& read) { return read.chunk == chunks[n]; });
        if (at == found.end()) at = found.insert(found.end(), {static_cast<int64_t>(r), chunks[n], 0});
        at->weight += weights[n] / static_cast<double>(heads);
      }
    }
    std::stable_sort(found.begin(), found.end(), [](const ChunkRead& a, const ChunkRead& b) { return a.weight > b.weight; });
    reads.insert(reads.end(), found.begin(), found.end());
  }
  return reads;
}

// One prompt on its way to an answer.
class Row {
 public:
  Row(size_t number, const std::vector<int32_t>& prompt, const Tokenizer& tokenizer, const SamplingOptions& options)
      : number_(number), prompt_(prompt), tokenizer_(tokenizer), options_(options) {}

  bool done() const { return done_; }
  bool answers_at(int64_t column) const { return !done_ && column >= std::ssize(prompt_); }
  const std::vector<int32_t>& prompt() const { return prompt_; }
  Answer& answer() { return answer_; }

  // Draws the next token. Returns text that can be shown now.
  std::string draw(std::span<const float> logits, std::vector<ChunkRead> reads) {
    const int64_t i = std::ssize(answer_.tokens);
    Random random(stream_key({options_.seed, static_cast<uint64_t>(number_), static_cast<uint64_t>(i)}));
    GeneratedToken token;
    token.id = draw_token(logits, tokenizer_.vocab_size(), options_.temperature, options_.top_p, random.uniform());
    token.probability = probability(logits, token.id);
    token.reads = std::move(reads);
    answer_.tokens.push_back(std::move(token));
    std::vector<int32_t> ids;
    for (const GeneratedToken& made : answer_.tokens) ids.push_back(made.id);
    answer_.text = tokenizer_.decode(ids);
    size_t end = std::string::npos;
    for (const std::string& stop : options_.stop) end = std::min(end, answer_.text.find(stop));
    if (end != std::string::npos) {
      answer_.text.resize(end);
      answer_.stopped = done_ = true;
    } else if (std::ssize(answer_.tokens) >= options_.max_tokens) {
      done_ = true;
    }
    return fresh_text();
  }

 private:
  static double probability(std::span<const float> logits, int32_t id) {
    const double top = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float x : logits) sum += std::exp(x - top);
    return std::exp(logits[id] - top) / sum;
  }

  // What may still become part of a stop string or of a character is held back until the end.
  std::string fresh_text() {
    size_t end = answer_.text.size();
    if (!done_) {
      size_t hold = incomplete_utf8_tail(answer_.text);
      for (const std::string& stop : options_.stop) {
        for (size_t n = std::min(stop.size() - 1, answer_.text.size()); n > hold; --n) {
          if (std::string_view(answer_.text).ends_with(std::string_view(stop).substr(0, n))) hold = n;
        }
      }
      end -= std::min(end, hold);
    }
    if (end <= shown_) return {};
    const std::string fresh = answer_.text.substr(shown_, end - shown_);
    shown_ = end;
    return fresh;
  }

  size_t number_;
  const std::vector<int32_t>& prompt_;
  const Tokenizer& tokenizer_;
  const SamplingOptions& options_;
  Answer answer_;
  size_t shown_ = 0;
  bool done_ = false;
};

}  // namespace

void SamplingOptions::validate() const {
  if (!(temperature >= 0 && temperature <= 100)) throw UserError("temperature {} is not in 0 .. 100", temperature);
  if (!(top_p > 0 && top_p <= 1)) throw UserError("top_p {} is not in 0 .. 1 (0 excluded)", top_p);
  if (max_tokens < 1) throw UserError("an answer has at least 1 token, not {}", max_tokens);
  for (const std::string& text : stop) {
    if (text.empty()) throw UserError("a stop string is empty");
  }
}

int32_t draw_token(std::span<const float> logits, int64_t known, double temperature, double top_p, double u) {
  const auto candidates = logits.first(std::min<size_t>(logits.size(), known));
  CAIRN_CHECK(!candidates.empty(), "no candidates");
  const auto best = std::max_element(candidates.begin(), candidates.end());
  if (temperature == 0) return static_cast<int32_t>(best - candidates.begin());
  std::vector<int32_t> order(candidates.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return candidates[a] > candidates[b]; });
  std::vector<double> weight(order.size());
  double total = 0;
  for (size_t i = 0; i < order.size(); ++i) total += weight[i] = std::exp((candidates[order[i]] - *best) / temperature);
  double kept = 0;
  size_t count = 0;
  while (count < order.size() && (count == 0 || kept < top_p * total)) kept += weight[count++];
  double left = u * kept;
  for (size_t i = 0; i + 1 < count; ++i) {
    left -= weight[i];
    if (left < 0) return order[i];
  }
  return order[count - 1];
}

std::vector<Answer> answer(const Reader& reader, const ReaderState& state, const std::vector<std::vector<int32_t>>& prompts,
                           const Tokenizer& tokenizer, const SamplingOptions& options,
                           const std::function<bool(size_t prompt, std::string_view text)>& on_text) {
  const at::NoGradGuard no_gradient;
  options.validate();
  if (prompts.empty()) return {};
  const int64_t count = std::ssize(prompts);
  int64_t column = std::ssize(prompts[0]);  // of the next tokens; all before them have been fed
  std::vector<Row> rows;
  for (size_t i = 0; i < prompts.size(); ++i) {
    CAIRN_CHECK(!prompts[i].empty(), "prompt {} has no token", i);
    column = std::min<int64_t>(column, std::ssize(prompts[i]));
    rows.emplace_back(i, prompts[i], tokenizer, options);
  }
  const auto batch = count == 1 ? state.fork() : state.expand(count);
  at::Tensor next = at::empty({count, column}, at::kLong);
  for (int64_t r = 0; r < count; ++r) std::copy_n(prompts[r].begin(), column, next.data_ptr<int64_t>() + r * column);
  StepDecoder steps(reader, *batch, options.reads ? 0 : options.max_tokens);  // what a token read is not recorded
  for (;;) {
    Trace trace;
    const at::Tensor given = next.to(reader.device());
    const at::Tensor made =
        options.reads || given.size(1) > 1 ? reader.advance_last(*batch, given, 1, options.reads ? &trace : nullptr) : steps.advance(given);
    const at::Tensor logits = made.select(1, 0).to(at::kCPU).contiguous();
    const int64_t vocab = logits.size(1), last = next.size(1) - 1;
    next = at::empty({count, 1}, at::kLong);
    bool all_done = true;
    for (int64_t r = 0; r < count; ++r) {
      Row& row = rows[r];
      int64_t id = 0;  // of rows that are done: anything
      if (column < std::ssize(row.prompt())) {
        id = row.prompt()[column];
      } else if (row.answers_at(column)) {
        const std::string fresh = row.draw({logits.const_data_ptr<float>() + r * vocab, static_cast<size_t>(vocab)},
                                           options.reads ? reads_of(trace, r, last) : std::vector<ChunkRead>());
        id = row.answer().tokens.back().id;
        if (on_text && !fresh.empty() && !on_text(r, fresh)) all_done = true, column = -1;
      }
      if (column < 0) break;
      all_done = all_done && row.done();
      next.data_ptr<int64_t>()[r] = id;
    }
    if (all_done || column < 0) break;
    ++column;
  }
  std::vector<Answer> answers;
  for (Row& row : rows) answers.push_back(std::move(row.answer()));
  return answers;
}

}  // namespace cairn
