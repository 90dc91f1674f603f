#include "cairn/eval/scoring.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cctype>
#include <iterator>

#include "cairn/core/error.h"
#include "cairn/eval/resources.h"
#include "cairn/infer/decoder.h"
#include "cairn/infer/graph_decoder.h"

namespace cairn {
namespace {

std::string lower_case(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

int64_t tail_begin(const EvalSample& sample) { return sample.length - std::ssize(sample.tail); }

// Greedy generation of `ids` from the prompt of `answer` counts as right if every reference string is in the text.
bool holds_references(const std::vector<int32_t>& ids, const EvalAnswer& answer, const Tokenizer& tokenizer) {
  std::vector<int32_t> known;
  for (const int32_t id : ids) {
    if (id >= 0 && id < tokenizer.vocab_size()) known.push_back(id);  // a model may have more rows than its tokenizer has tokens
  }
  const std::string text = tokenizer.decode(known);
  if (answer.references.empty()) return contains_case_insensitive(text, answer.reference);
  return std::all_of(answer.references.begin(), answer.references.end(),
                     [&](const std::string& reference) { return contains_case_insensitive(text, reference); });
}

// What one retrieval chose over all columns, on the host: index int64 [B,n,Q,N], weight fp32 [B,n,heads,N]. Pieces may differ in slots (a
// memory that grew), so each is padded to the widest.
class TailChoices {
 public:
  void add(const RetrievalTrace& trace) {
    index_.push_back(trace.selection.index);
    weight_.push_back(trace.weight);
  }
  void join() {
    index = joined(index_, -1, at::kLong);
    weight = joined(weight_, 0, at::kFloat);
  }
  Choice at(int64_t row, int64_t column) const {
    const int64_t slots = index.size(3), groups = index.size(2), heads = weight.size(2), cell = row * index.size(1) + column;
    return {{index.data_ptr<int64_t>() + cell * groups * slots, static_cast<size_t>(groups * slots)},
            {weight.data_ptr<float>() + cell * heads * slots, static_cast<size_t>(heads * slots)},
            slots};
  }

 private:
  static at::Tensor joined(std::vector<at::Tensor>& pieces, double fill, at::ScalarType type) {
    int64_t slots = 0;
    for (const at::Tensor& piece : pieces) slots = std::max(slots, piece.size(3));
    for (at::Tensor& piece : pieces) piece = at::constant_pad_nd(piece, {0, slots - piece.size(3)}, fill);
    return at::cat(pieces, 1).to(at::kCPU, type).contiguous();
  }

  std::vector<at::Tensor> index_, weight_;
  at::Tensor index, weight;
};

// Recall of every retrieval over the answer tokens of batch row `row`, and the failure of the first wrong one. Column c of the choices is
// position begin + c.
void diagnose(const EvalSample& sample, const ModelConfig& config, const std::vector<TailChoices>& choices, int64_t row, int64_t begin,
              const std::function<bool(int64_t)>& right_at, SampleScore* score) {
  score->recall_rows.assign(choices.size(), 0);
  score->recall_hits.assign(choices.size(), 0);
  for (const EvalAnswer& answer : sample.answers) {
    for (int64_t j = 0; j < answer.end - answer.begin; ++j) {
      const int64_t position = tail_begin(sample) + answer.begin + j - 1, column = position - begin;  // of the row that predicts the token
      std::vector<int64_t> sources;
      if (j < std::ssize(answer.source)) sources = visible_sources(config, position, answer.source[j]);
      std::vector<Choice> chosen;
      for (size_t r = 0; r < choices.size(); ++r) {
        chosen.push_back(choices[r].at(row, column));
        score->recall_rows[r] += !sources.empty();
        score->recall_hits[r] += std::any_of(sources.begin(), sources.end(), [&](int64_t chunk) { return chosen.back().holds(chunk); });
      }
      if (!right_at(column) && !score->failure) score->failure = classify_failure(chosen, sources);
    }
  }
}

}  // namespace

bool contains_case_insensitive(std::string_view text, std::string_view part) {
  return lower_case(text).find(lower_case(part)) != std::string::npos;
}

at::Tensor sample_tokens(std::span<const EvalSample> samples, int64_t begin, int64_t end, at::Device device) {
  const at::Tensor ids = at::empty({std::ssize(samples), end - begin}, at::kInt);
  for (size_t row = 0; row < samples.size(); ++row) {
    read_sample(samples[row], begin, {ids.data_ptr<int32_t>() + row * (end - begin), static_cast<size_t>(end - begin)});
  }
  return ids.to(device, at::kLong);
}

std::vector<SampleScore> score_samples(const Reader& reader, const ReaderState& state, std::span<const EvalSample> samples,
                                       const Tokenizer& tokenizer, bool generate_answers, EvalTimes* times) {
  const at::NoGradGuard no_gradient;
  const int64_t begin = state.position(), length = samples[0].length, batch = std::ssize(samples), columns = length - begin;
  const at::Tensor tokens = sample_tokens(samples, begin, length, reader.device());
  std::vector<SampleScore> scores(samples.size());

  // Teacher-forced: the arg max of every row, the right tokens given.
  Stopwatch watch(reader.device());
  Trace trace;
  const auto asked = state.fork();
  // A few columns at a time: logits are [B,n,vocab].
  const int64_t block = std::clamp<int64_t>((int64_t{1} << 26) / (batch * reader.vocab()), 16, std::max<int64_t>(columns, 16));
  std::vector<at::Tensor> arg_max;
  std::vector<TailChoices> choices;
  for (int64_t at = 0; at < columns; at += block) {
    const at::Tensor logits = reader.advance(*asked, tokens.narrow(1, at, std::min(block, columns - at)), &trace);
    arg_max.push_back(logits.argmax(-1));
    choices.resize(trace.retrievals.size());
    for (size_t r = 0; r < choices.size(); ++r) choices[r].add(trace.retrievals[r]);
  }
  for (TailChoices& choice : choices) choice.join();
  const at::Tensor best = at::cat(arg_max, 1).to(at::kCPU).contiguous(), right = tokens.to(at::kCPU);

  std::vector<std::vector<bool>> answer_right(samples.size());
  for (int64_t row = 0; row < batch; ++row) {
    const EvalSample& sample = samples[row];
    SampleScore& score = scores[row];
    const int64_t* predicted = best.data_ptr<int64_t>() + row * columns;
    const int64_t* wanted = right.data_ptr<int64_t>() + row * columns;
    const int64_t offset = tail_begin(sample) - begin;  // column of the tail's first token
    score.correct = true;
    for (const EvalAnswer& answer : sample.answers) {
      CAIRN_CHECK(offset + answer.begin >= 1, "an answer without prompt");
      int64_t good = 0;
      for (int64_t c = offset + answer.begin; c < offset + answer.end; ++c) good += predicted[c - 1] == wanted[c];
      score.tokens += answer.end - answer.begin;
      score.tokens_correct += good;
      answer_right[row].push_back(good == answer.end - answer.begin);
      score.correct = score.correct && answer_right[row].back();
    }
    diagnose(
        sample, reader.model().config(), choices, row, begin, [&](int64_t column) { return predicted[column] == wanted[column + 1]; },
        &score);
  }
  if (times != nullptr) times->asking += watch.lap();
  if (!generate_answers) return scores;

  // Generated. Where teacher forcing was right at every token of an answer, greedy generation gives those very tokens; only the others are
  // run.
  for (SampleScore& score : scores) score.generated = true;
  size_t most = 0;
  for (const EvalSample& sample : samples) most = std::max(most, sample.answers.size());
  for (size_t k = 0; k < most; ++k) {
    std::vector<int64_t> first(batch, columns), last(batch, 0);
    std::vector<bool> run(batch, false);
    bool any = false;
    for (int64_t row = 0; row < batch; ++row) {
      const EvalSample& sample = samples[row];
      if (k >= sample.answers.size()) continue;
      const EvalAnswer& answer = sample.answers[k];
      if (answer_right[row][k]) {
        const std::vector<int32_t> ids(sample.tail.begin() + answer.begin, sample.tail.begin() + answer.end);
        scores[row].generated = scores[row].generated && holds_references(ids, answer, tokenizer);
      } else if (scores[row].generated) {  // a sample that failed already needs no more
        any = run[row] = true;
        first[row] = tail_begin(sample) - begin + answer.begin;
        last[row] = tail_begin(sample) - begin + answer.end;
      }
    }
    if (!any) continue;
    const auto answering = state.fork();
    const auto made = generate(reader, *answering, tokens, first, last);
    for (int64_t row = 0; row < batch; ++row) {
      if (run[row]) scores[row].generated = holds_references(made[row], samples[row].answers[k], tokenizer);
    }
  }
  if (times != nullptr) times->generating += watch.lap();
  return scores;
}

void measure_decoding(const Reader& reader, const ReaderState& state, const EvalSample& sample, EvalTimes* times) {
  constexpr int64_t kWarmUp = 2;
  const int64_t kSteps = reader.device().is_cuda() ? 64 : 8;  // on a GPU a whole chunk, with the recording that it costs
  const at::NoGradGuard no_gradient;
  const auto alone = state.row(0);
  const at::Tensor tail = sample_tokens({&sample, 1}, state.position(), sample.length, reader.device());
  const auto next_of = [&](const at::Tensor& tokens) { return reader.advance_last(*alone, tokens, 1).select(1, 0).argmax(-1, true); };
  at::Tensor next = next_of(tail);
  StepDecoder steps(reader, *alone, kWarmUp + kSteps);
  const auto step = [&] {
    steps.advance(next);
    next = steps.best();
  };
  for (int64_t i = 0; i < kWarmUp; ++i) step();
  Stopwatch watch(reader.device());
  for (int64_t i = 0; i < kSteps; ++i) step();
  times->decode_seconds += watch.lap();
  times->decode_steps += kSteps;
}

void add_score(const SampleScore& score, const EvalSample& sample, EvalCell* cell) {
  ++cell->samples;
  cell->correct += score.correct;
  cell->generated_correct += score.generated;
  cell->tokens += score.tokens;
  cell->tokens_correct += score.tokens_correct;
  if (score.failure) ++cell->failures[static_cast<size_t>(*score.failure)];
  cell->recall_rows.resize(std::max(cell->recall_rows.size(), score.recall_rows.size()));
  cell->recall_hits.resize(cell->recall_rows.size());
  for (size_t r = 0; r < score.recall_rows.size(); ++r) {
    cell->recall_rows[r] += score.recall_rows[r];
    cell->recall_hits[r] += score.recall_hits[r];
  }
  DepthBin& bin = cell->depths[std::clamp<int64_t>(static_cast<int64_t>(sample.depth * EvalCell::kBins), 0, EvalCell::kBins - 1)];
  ++bin.samples;
  bin.correct += score.correct;
}

}  // namespace cairn
