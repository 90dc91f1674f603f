#include "cairn/eval/evaluate.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <span>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/core/progress.h"
#include "cairn/eval/resources.h"
#include "cairn/eval/scoring.h"
#include "cairn/tasks/word_pairs.h"

namespace cairn {
namespace {

// Reading by edits pays when a window is long against what an edit re-encodes, and when several samples share it.
constexpr int64_t kEditsFrom = 65536, kEditsSamples = 4;

// Guessing values of the right form: 7 digits, first not 0; 5 letters a name, one name given by the question's form alone; one of the
// words.
double chance_level(const std::string& task) {
  const double number = 1.0 / 9e6, name = 1.0 / (26. * 26 * 26 * 26 * 26);
  if (task == "single_needle") return number;
  if (task == "multi_query") return number * number;
  if (task == "variable_tracking") return name * name * name * name * name;
  if (task == "variable_tracking_2") return name * name * name;
  return 1.0 / static_cast<double>(WordPairs::kWords);
}

int64_t longest_tail(std::span<const EvalSample> samples) {
  int64_t longest = 0;
  for (const EvalSample& sample : samples) longest = std::max<int64_t>(longest, std::ssize(sample.tail));
  return longest;
}

int64_t choose_batch(const Reader& reader, const EvalPlan& plan, int64_t length) {
  return plan.batch > 0 ? std::min(plan.batch, plan.samples) : rows_that_fit(reader, plan.samples, length);
}

// Thrown by nothing but a stop request inside a cell; the cell is dropped.
struct Stopped {};

// The haystack window of one length that all cells evaluated by edits share: read by the first of them, bit for bit as it was after each.
struct SharedReading {
  const TokenSource* haystack = nullptr;
  int64_t window = 0, before = 0;      // haystack token at position 0; tokens read, those before the longest tail
  std::unique_ptr<ReaderState> state;  // null: not read yet

  void plan_for(std::span<const EvalSample> samples) {
    for (const EvalSample& sample : samples) {
      const int64_t tail = std::ssize(sample.tail), hay = sample.length - tail;
      if (haystack == nullptr) {
        haystack = sample.haystack.get(), window = sample.haystack_begin, before = hay;
      } else if (sample.haystack.get() != haystack) {
        continue;
      }
      before = std::min(before, hay);
      window = std::min(window, haystack->size() - hay);
    }
  }
};

class CellRunner {
 public:
  CellRunner(Reader& reader, const Tokenizer& tokenizer, const EvalPlan& plan, std::vector<EvalSample> samples, SharedReading* shared,
             EvalCell* cell)
      : reader_(reader),
        tokenizer_(tokenizer),
        plan_(plan),
        samples_(std::move(samples)),
        shared_(*shared),
        cell_(cell),
        progress_(cell->task + " " + format_length(cell->length), std::ssize(samples_), "samples"),
        watch_(reader.device()) {}

  void run() {
    reset_peak_memory(reader_.device());
    cell_->shared_window = by_edits();
    if (cell_->shared_window) {
      run_by_edits();
    } else {
      run_one_by_one();
    }
    const EvalTimes& t = cell_->times;
    cell_->seconds = t.reading + t.edits + t.asking + t.generating;
    if (const auto memory = device_memory(reader_.device())) {
      cell_->device_peak_bytes = memory->peak;
      cell_->device_current_bytes = memory->current;
    }
    if (plan_.floor) run_floor();
    progress_.finish(fmt::format("{} of {} right", cell_->correct, cell_->samples));
  }

 private:
  bool by_edits() const {
    if (plan_.edits == "off") return false;
    const bool shared =
        std::all_of(samples_.begin(), samples_.end(), [&](const EvalSample& s) { return s.haystack.get() == shared_.haystack; });
    if (plan_.edits == "on") return shared;
    return shared && cell_->length >= kEditsFrom && std::ssize(samples_) >= kEditsSamples;
  }

  void note(int64_t done, const std::string& what = {}) {
    if (stop_requested()) throw Stopped{};
    progress_.update(done, what);
  }

  void note_reading(int64_t read, int64_t total) { note(cell_->samples, fmt::format("read {} of {}", read, total)); }

  void read(ReaderState& state, int64_t count, const TokenFetch& fetch) {
    bool stopped = false;
    reader_.read(state, count, fetch, [&](int64_t done) {
      if (stop_requested()) return !(stopped = true);
      note_reading(done, count);
      return true;
    });
    if (stopped) throw Stopped{};
    cell_->times.reading += watch_.lap();
  }

  void score(const ReaderState& state, std::span<const EvalSample> samples) {
    const std::vector<SampleScore> scores = score_samples(reader_, state, samples, tokenizer_, true, &cell_->times);
    cell_->state_bytes = std::max(cell_->state_bytes, state.bytes());
    if (cell_->times.decode_steps == 0) measure_decoding(reader_, state, samples[0], &cell_->times);
    for (size_t i = 0; i < samples.size(); ++i) {
      add_score(scores[i], samples[i], cell_);
      if (!plan_.diagnose) continue;
      if (!cell_->diagnosis) cell_->diagnosis.emplace();
      note(cell_->samples, "diagnosing");
      diagnose_sample(reader_, *state.row(static_cast<int64_t>(i)), samples[i], &*cell_->diagnosis);
    }
    watch_.lap();  // measuring and diagnosing are not evaluating
    note(cell_->samples, fmt::format("{} right", cell_->correct));
  }

  // Every sample is read from its first token to its tail, several in one batch.
  void run_one_by_one() {
    const int64_t batch = choose_batch(reader_, plan_, cell_->length);
    for (size_t first = 0; first < samples_.size(); first += batch) {
      const std::span<const EvalSample> part = std::span(samples_).subspan(first, std::min<size_t>(batch, samples_.size() - first));
      const int64_t before = cell_->length - longest_tail(part);
      const auto state = reader_.new_reader_state(std::ssize(part));
      read(*state, before, [&](int64_t row, int64_t begin, std::span<int32_t> out) { read_sample(part[row], begin, out); });
      score(*state, part);
      cell_->tokens_read += std::ssize(part) * cell_->length;
    }
  }

  // docs/algorithm.md section 4, point 5: one reading of a shared window, by the first cell of a length; for every sample the chunks that
  // feel its needles are encoded again, the tail is asked, and what was there before comes back bit by bit.
  void run_by_edits() {
    const int64_t before = shared_.before, window = shared_.window;
    for (EvalSample& sample : samples_) sample.haystack_begin = window;
    if (!shared_.state) {
      auto state = reader_.new_reader_state(1);
      read(*state, before, [&](int64_t, int64_t begin, std::span<int32_t> out) { shared_.haystack->read(window + begin, out); });
      cell_->tokens_read += before;
      shared_.state = std::move(state);
    }
    ReaderState* const state = shared_.state.get();
    for (const EvalSample& sample : samples_) {
      std::vector<Reader::Replaced> replaced;
      for (const Edit& edit : sample.edits) {
        const int64_t end = std::min(edit.position + static_cast<int64_t>(std::ssize(edit.ids)), before);
        if (edit.position >= end) continue;  // inside what is asked together with the tail
        replaced.push_back(reader_.rewrite(*state, edit.position, end,
                                           [&](int64_t, int64_t begin, std::span<int32_t> out) { read_sample(sample, begin, out); }));
        cell_->tokens_read += replaced.back().tokens;
      }
      cell_->times.edits += watch_.lap();
      score(*state, {&sample, 1});
      cell_->tokens_read += sample.length - before;
      for (size_t i = replaced.size(); i-- > 0;) reader_.restore(*state, replaced[i]);
      cell_->times.edits += watch_.lap();
    }
  }

  // Memory off: nothing before the reach of the windows matters, so only that is read.
  void run_floor() {
    const ModelConfig& config = reader_.model().config();
    reader_.use_memory(false);
    const int64_t batch = std::max<int64_t>(1, reader_.segment_tokens() / 256);
    for (size_t first = 0; first < samples_.size(); first += batch) {
      const std::span<const EvalSample> part = std::span(samples_).subspan(first, std::min<size_t>(batch, samples_.size() - first));
      const int64_t before = cell_->length - longest_tail(part);
      const int64_t begin = std::max<int64_t>(0, before - Reader::floor_reach(config)) / config.chunk * config.chunk;
      const auto state = reader_.new_reader_state(std::ssize(part), begin);
      reader_.read(*state, before - begin, [&](int64_t row, int64_t at, std::span<int32_t> out) { read_sample(part[row], at, out); });
      for (const SampleScore& score : score_samples(reader_, *state, part, tokenizer_, false)) {
        ++cell_->floor_samples;
        cell_->floor_correct += score.correct;
      }
      if (stop_requested()) throw Stopped{};
    }
    reader_.use_memory(true);
  }

  Reader& reader_;
  const Tokenizer& tokenizer_;
  const EvalPlan& plan_;
  std::vector<EvalSample> samples_;
  SharedReading& shared_;
  EvalCell* cell_;
  Progress progress_;
  Stopwatch watch_;
};

}  // namespace

void check_plan(const Reader& reader, const TaskSet& tasks, const EvalPlan& plan) {
  const std::vector<std::string> names = TaskSet::eval_tasks();
  if (plan.tasks.empty()) throw UserError("no task to evaluate; there are: {}", fmt::join(names, ", "));
  if (plan.lengths.empty()) throw UserError("no length to evaluate; give some, such as 4K,64K,1M");
  if (plan.samples < 1) throw UserError("samples must be 1 or more, not {}", plan.samples);
  for (const std::string& task : plan.tasks) {
    // The generator knows what it needs of task, haystack and length, and says so.
    for (const int64_t length : plan.lengths) {
      const int64_t all = std::min<int64_t>(plan.samples, 20);
      for (int64_t i = 0; i < all; ++i) tasks.eval_sample(task, plan.seed, i, length, plan.haystack);
    }
  }
  for (const int64_t length : plan.lengths) require_memory(reader, choose_batch(reader, plan, length), length);
}

std::vector<EvalCell> evaluate(Reader& reader, const TaskSet& tasks, const Tokenizer& tokenizer, const EvalPlan& plan,
                               const std::function<void(const std::vector<EvalCell>&)>& on_cell) {
  check_plan(reader, tasks, plan);
  std::vector<int64_t> lengths = plan.lengths;
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  std::vector<std::string> names;
  for (const std::string& task : plan.tasks) {
    if (std::find(names.begin(), names.end(), task) == names.end()) names.push_back(task);
  }
  std::vector<EvalCell> cells;
  reader.use_memory(true);
  for (const int64_t length : lengths) {
    std::vector<std::vector<EvalSample>> samples(names.size());
    SharedReading shared;
    for (size_t n = 0; n < names.size(); ++n) {
      for (int64_t i = 0; i < plan.samples; ++i) samples[n].push_back(tasks.eval_sample(names[n], plan.seed, i, length, plan.haystack));
      if (plan.haystack) shared.plan_for(samples[n]);
    }
    for (size_t n = 0; n < names.size(); ++n) {
      EvalCell cell;
      cell.task = names[n];
      cell.length = length;
      cell.chance = chance_level(names[n]);
      try {
        CellRunner(reader, tokenizer, plan, std::move(samples[n]), &shared, &cell).run();
      } catch (const Stopped&) {
        reader.use_memory(true);
        return cells;
      }
      cells.push_back(std::move(cell));
      if (on_cell) on_cell(cells);
    }
  }
  return cells;
}

}  // namespace cairn
