#include "cairn/tasks/task_set.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/tasks/haystack.h"
#include "cairn/tasks/mix.h"
#include "cairn/tasks/needles.h"
#include "cairn/tasks/training.h"
#include "cairn/tasks/weave.h"
#include "cairn/tasks/word_pairs.h"

namespace cairn {
namespace {

constexpr uint64_t kTraining = 0x747261696e696e67, kEvaluation = 0x6576616c75617465;  // purposes of random streams
constexpr int64_t kStrata = 10;                                                       // depths of evaluation samples

}  // namespace

struct TaskSet::Impl {
  TaskOptions options;
  std::vector<std::pair<std::string, double>> mix;  // name, share
  std::string tokenizer_kind;
  std::shared_ptr<const NeedleMaker> maker;  // null with a tokenizer of whole words
  std::optional<WordPairs> pairs;            // only with the tokenizer of word_pairs
  std::optional<TrainingSamples> training;

  void require_tokenizer(const std::string& task) const;
};

void TaskSet::Impl::require_tokenizer(const std::string& task) const {
  if (task == "word_pairs" && !pairs) {
    throw UserError("word_pairs has a vocabulary of its own and cannot be used with this tokenizer of kind '{}'", tokenizer_kind);
  }
  if (task != "word_pairs" && task != "text" && task != "copy" && !maker) {
    throw UserError("{} is written in English sentences; it needs a SentencePiece or byte tokenizer, not one of kind '{}'", task,
                    tokenizer_kind);
  }
}

TaskSet::TaskSet(std::shared_ptr<const Tokenizer> tokenizer, std::shared_ptr<const TokenSource> text, TaskOptions options) {
  CAIRN_CHECK(tokenizer != nullptr);
  auto impl = std::make_unique<Impl>();
  impl->options = std::move(options);
  if (impl->options.pair_needles < 1 || impl->options.pair_needles > WordPairs::kMaximumNeedles) {
    throw UserError("tasks.pair_needles must be 1 to {}, not {}", WordPairs::kMaximumNeedles, impl->options.pair_needles);
  }
  if (!(impl->options.answer_weight >= 0)) throw UserError("tasks.answer_weight must be 0 or more, not {}", impl->options.answer_weight);
  impl->mix = parse_mix(impl->options.mix);
  impl->tokenizer_kind = tokenizer->kind();
  if (tokenizer->kind() != "words") {
    impl->maker = std::make_shared<NeedleMaker>(tokenizer);
  } else if (tokenizer->fingerprint() == make_word_pairs_tokenizer()->fingerprint()) {
    impl->pairs.emplace(impl->options.pair_needles);
  }
  for (const auto& [name, share] : impl->mix) {
    if (share == 0) continue;
    impl->require_tokenizer(name);
    if (name != "word_pairs" && text == nullptr) throw UserError("{} needs training text; give some, or take it out of tasks.mix", name);
  }
  impl->training.emplace(std::move(tokenizer), std::move(text), impl->maker, impl->options.answer_weight);
  impl_ = std::move(impl);
}

TaskSet::~TaskSet() = default;

Sample TaskSet::training_sample(uint64_t seed, int64_t index, int64_t length) const {
  CAIRN_CHECK(index >= 0 && length >= 1, "sample {} of length {}", index, length);
  const Impl& impl = *impl_;
  Random random(stream_key({seed, kTraining, static_cast<uint64_t>(index)}));
  Sample sample;
  double u = random.uniform();
  for (const auto& [name, share] : impl.mix) {
    if (share == 0) continue;  // so that rounding at the end of the list never chooses it
    sample.task = name;
    if (u < share) break;
    u -= share;
  }
  if (sample.task == "word_pairs") {
    impl.pairs->training_sample(random, length, impl.options.answer_weight, &sample);
  } else {
    impl.training->make(random, length, &sample);
  }
  return sample;
}

EvalSample TaskSet::eval_sample(const std::string& task, uint64_t seed, int64_t index, int64_t length,
                                std::shared_ptr<const TokenSource> haystack) const {
  CAIRN_CHECK(index >= 0, "sample {}", index);
  const Impl& impl = *impl_;
  const std::vector<std::string> names = eval_tasks();
  const auto number = std::find(names.begin(), names.end(), task);
  if (number == names.end()) {
    const std::string nearest = nearest_name(task, names);
    throw UserError("'{}' is not a task to evaluate{}", task, nearest.empty() ? std::string() : "; did you mean '" + nearest + "'?");
  }
  impl.require_tokenizer(task);
  Random random(stream_key(
      {seed, kEvaluation, static_cast<uint64_t>(number - names.begin()), static_cast<uint64_t>(index), static_cast<uint64_t>(length)}));
  EvalSample sample;
  sample.task = task;
  sample.index = index;
  sample.length = length;
  if (task == "word_pairs") {
    impl.pairs->eval_sample(random, index % kStrata, kStrata, length, std::move(haystack), &sample);
    return sample;
  }
  if (haystack == nullptr) throw UserError("{} needs a haystack; give a text file, a token shard, \"prose\" or \"noise\"", task);

  Draws draws(random, true);
  const Exercise exercise = plans(task).front().make(*impl.maker, draws);
  if (exercise.tokens() > length) throw UserError("{} needs a length of at least {} tokens, not {}", task, exercise.tokens(), length);
  const int64_t hay = length - (exercise.tokens() - exercise.statement_tokens());
  sample.haystack_begin = haystack_window(random, *haystack, hay, task);
  sample.haystack = std::move(haystack);

  int64_t anchored = 0;
  const std::vector<int64_t> begin =
      place_statements(exercise, hay, exercise.questions[0].group, index % kStrata, kStrata, random, &anchored);
  sample.depth = static_cast<double>(begin[anchored]) / static_cast<double>(length);
  size_t statement = 0;
  for (const auto& group : exercise.groups) {
    for (const Ids& ids : group) sample.edits.push_back({begin[statement++], ids});
  }
  std::sort(sample.edits.begin(), sample.edits.end(), [](const Edit& a, const Edit& b) { return a.position < b.position; });
  for (const Question& question : exercise.questions) {
    EvalAnswer answer;
    answer.begin = std::ssize(sample.tail) + question.answer_begin;
    sample.tail.insert(sample.tail.end(), question.ids.begin(), question.ids.end());
    answer.end = std::ssize(sample.tail);
    if (question.references.size() == 1) {
      answer.reference = question.references[0];
    } else {
      answer.references = question.references;
    }
    for (const Stated& stated : question.stated) {
      if (stated.statement < 0) {
        answer.source.push_back({-1, -1});
      } else {
        const int64_t at = begin[stated.statement];
        answer.source.push_back({at + stated.token, stated.key_end < 0 ? -1 : at + stated.key_end});
      }
    }
    sample.answers.push_back(std::move(answer));
  }
  return sample;
}

std::shared_ptr<const Tokenizer> make_word_pairs_tokenizer() { return make_word_tokenizer(WordPairs::vocabulary()); }

}  // namespace cairn
