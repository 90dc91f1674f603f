#include "cairn/tasks/task_set.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/tasks/haystack.h"
#include "cairn/tasks/needles.h"
#include "cairn/tasks/weave.h"
#include "cairn/tasks/word_pairs.h"

namespace cairn {
namespace {

constexpr uint64_t kTraining = 0x747261696e696e67, kEvaluation = 0x6576616c75617465;  // purposes of random streams
constexpr int64_t kStrata = 10;                                                       // depths of evaluation samples
constexpr double kRandomCopies = 0.3;                                                 // share of copy samples made of random tokens
constexpr int64_t kCopyLead = 32;  // copied tokens at the start of the repetition that do not count: it cannot be known that a copy begins

const std::vector<std::string>& task_names() {
  static const std::vector<std::string> names = {
      "text",          "copy",         "single_needle", "multi_query", "variable_tracking", "variable_tracking_2",
      "dense_needles", "dense_chains", "word_pairs"};
  return names;
}

// "dense_chains:0.32" -> name and share.
std::pair<std::string, double> parse_share(const std::string& entry) {
  const size_t colon = entry.rfind(':');
  const std::string name = entry.substr(0, colon);
  if (std::find(task_names().begin(), task_names().end(), name) == task_names().end()) {
    const std::string nearest = nearest_name(name, task_names());
    throw UserError("tasks.mix: there is no task '{}'{}", name, nearest.empty() ? std::string() : "; did you mean '" + nearest + "'?");
  }
  double share = 0;
  const char* end = entry.data() + entry.size();
  const char* begin = colon == std::string::npos ? end : entry.data() + colon + 1;
  const auto [rest, error] = std::from_chars(begin, end, share);
  if (error != std::errc() || rest != end) throw UserError("tasks.mix: '{}' is not TASK:SHARE, such as copy:0.08", entry);
  if (!std::isfinite(share) || share < 0)
    throw UserError("tasks.mix: the share of '{}' must be a number of 0 or more, not {}", name, share);
  return {name, share};
}

// Groups of needles and chains that a task tries in this order, until one fits into the length: fewer needles in short sequences.
struct Plan {
  bool chains = false;
  int64_t groups = 1, links = 1, asked = 1;
};

const std::vector<Plan>* plans(const std::string& task) {
  static const std::map<std::string, std::vector<Plan>> table = {
      {"single_needle", {{false, 1, 1, 1}}},
      {"multi_query", {{false, 4, 1, 2}, {false, 3, 1, 2}, {false, 2, 1, 2}, {false, 2, 1, 1}}},
      {"variable_tracking", {{true, 1, 5}, {true, 1, 4}, {true, 1, 3}, {true, 1, 2}}},
      {"variable_tracking_2", {{true, 2, 3}, {true, 2, 2}}},
  };
  const auto found = table.find(task);
  return found == table.end() ? nullptr : &found->second;
}

Exercise make_exercise(const NeedleMaker& maker, const Plan& plan, Draws& draws) {
  return plan.chains ? maker.chains(draws, plan.groups, plan.links) : maker.needles(draws, plan.groups, plan.asked);
}

}  // namespace

void TaskOptions::declare(OptionTable& table, const std::string& section) {
  std::string names;
  for (const std::string& name : task_names()) names += (names.empty() ? "" : ", ") + name;
  table.add(section + ".mix", &mix, "shares of training samples, \"task:share\", normalised to sum 1; tasks: " + names);
  table.add(section + ".answer_weight", &answer_weight, "loss weight of an answer token; every other token counts 1", 0, 1e6);
  table.add(section + ".pair_needles", &pair_needles,
            "word_pairs: needles in a training sequence, and rivals in 128 tokens of its evaluation haystack", 1,
            static_cast<double>(WordPairs::kMaximumNeedles));
}

struct TaskSet::Impl {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const TokenSource> text;
  TaskOptions options;
  std::vector<std::pair<std::string, double>> mix;  // name, cumulative share
  std::optional<NeedleMaker> maker;                 // absent with the tokenizer of word_pairs
  std::optional<WordPairs> pairs;                   // present with it

  void require_tokenizer(const std::string& task) const;
  void read_text(const std::string& task, Random& random, std::span<int32_t> out) const;
  void text_sample(Random& random, int64_t length, Sample* sample) const;
  void copy_sample(Random& random, int64_t length, Sample* sample) const;
  void dense_needles(Random& random, int64_t length, Sample* sample) const;
  void dense_chains(Random& random, int64_t length, Sample* sample) const;
  void needle_sample(const std::vector<Plan>& attempts, Random& random, int64_t length, Sample* sample) const;
  void finish(Weaver& weaver, Random& random, int64_t length, Sample* sample) const;
  [[noreturn]] static void too_short(const std::string& task, int64_t needed, int64_t length) {
    throw UserError("{} needs a training length of at least {} tokens, not {}; use longer sequences or take it out of tasks.mix", task,
                    needed, length);
  }
};

void TaskSet::Impl::require_tokenizer(const std::string& task) const {
  if (task == "word_pairs" && !pairs) {
    throw UserError("word_pairs uses words of its own; its tokenizer is the one called 'word_pairs', not one of kind '{}'",
                    tokenizer->kind());
  }
  if (task != "word_pairs" && task != "text" && task != "copy" && !maker) {
    throw UserError("{} is written in English sentences; it needs a SentencePiece or byte tokenizer, not one of kind '{}'", task,
                    tokenizer->kind());
  }
}

TaskSet::TaskSet(std::shared_ptr<const Tokenizer> tokenizer, std::shared_ptr<const TokenSource> text, TaskOptions options) {
  CAIRN_CHECK(tokenizer != nullptr);
  auto impl = std::make_unique<Impl>();
  impl->tokenizer = std::move(tokenizer);
  impl->text = std::move(text);
  impl->options = std::move(options);
  if (impl->options.pair_needles < 1 || impl->options.pair_needles > WordPairs::kMaximumNeedles) {
    throw UserError("tasks.pair_needles must be 1 to {}, not {}", WordPairs::kMaximumNeedles, impl->options.pair_needles);
  }
  if (!(impl->options.answer_weight >= 0)) throw UserError("tasks.answer_weight must be 0 or more, not {}", impl->options.answer_weight);
  if (impl->tokenizer->kind() != "words") {
    impl->maker.emplace(impl->tokenizer);
  } else if (impl->tokenizer->fingerprint() == make_word_pairs_tokenizer()->fingerprint()) {
    impl->pairs.emplace(impl->options.pair_needles);
  }
  double total = 0;
  for (const std::string& entry : impl->options.mix) {
    auto [name, share] = parse_share(entry);
    for (const auto& other : impl->mix) {
      if (other.first == name) throw UserError("tasks.mix: '{}' is given twice", name);
    }
    if (share > 0) {
      impl->require_tokenizer(name);
      if (name != "word_pairs" && impl->text == nullptr)
        throw UserError("{} needs training text; give some, or take it out of tasks.mix", name);
    }
    total += share;
    impl->mix.emplace_back(std::move(name), total);
  }
  if (!(total > 0) || !std::isfinite(total)) throw UserError("tasks.mix: all shares are 0; at least one task needs a share above 0");
  for (auto& entry : impl->mix) entry.second /= total;
  impl_ = std::move(impl);
}

TaskSet::~TaskSet() = default;

void TaskSet::Impl::read_text(const std::string& task, Random& random, std::span<int32_t> out) const {
  text->read(haystack_window(random, *text, std::ssize(out), task), out);
}

void TaskSet::Impl::finish(Weaver& weaver, Random& random, int64_t length, Sample* sample) const {
  weaver.weave(
      length, options.answer_weight, [&](std::span<int32_t> out) { read_text(sample->task, random, out); }, sample);
}

void TaskSet::Impl::text_sample(Random& random, int64_t length, Sample* sample) const {
  clear_sample(length, sample);
  read_text(sample->task, random, sample->tokens);
}

void TaskSet::Impl::copy_sample(Random& random, int64_t length, Sample* sample) const {
  const int64_t passage = (length + 1) / 2, first = passage + kCopyLead;  // first token that counts
  if (first > length) too_short("copy", 2 * kCopyLead, length);
  clear_sample(length, sample);
  const std::span<int32_t> tokens(sample->tokens);
  if (random.chance(kRandomCopies)) {
    for (int32_t& token : tokens.first(passage)) token = static_cast<int32_t>(random.below(tokenizer->vocab_size()));
  } else {
    read_text("copy", random, tokens.first(passage));
  }
  for (int64_t p = passage; p <= length; ++p) tokens[p] = tokens[p - passage];
  for (int64_t p = first; p <= length; ++p) {
    sample->is_answer[p - 1] = 1;
    sample->source[p - 1] = {p - passage, -1};
  }
}

void TaskSet::Impl::needle_sample(const std::vector<Plan>& attempts, Random& random, int64_t length, Sample* sample) const {
  int64_t needed = 0;
  for (const Plan& plan : attempts) {
    Draws draws(random, false);
    const Exercise exercise = make_exercise(*maker, plan, draws);
    needed = exercise.tokens() - 1;
    if (needed > length) continue;
    Weaver weaver;
    add_with_questions_last(exercise, random, &weaver);
    return finish(weaver, random, length, sample);
  }
  too_short(sample->task, needed, length);
}

// Many key-value sentences, each asked somewhere behind it.
void TaskSet::Impl::dense_needles(Random& random, int64_t length, Sample* sample) const {
  constexpr double kFilled[] = {0.3, 0.45, 0.6};
  const double total = static_cast<double>(length + 1), wanted = total * kFilled[random.below(3)];
  Draws draws(random, false);
  Weaver weaver;
  for (;;) {
    Exercise exercise = maker->needles(draws, 1, 1);
    const int64_t tokens = weaver.tokens() + exercise.tokens();
    if (weaver.tokens() == 0) {
      // The first one may take more than the wanted share: short sequences hold one needle rather than none.
      if (tokens > length + 1) too_short(sample->task, tokens - 1, length);
    } else if (static_cast<double>(tokens) > wanted) {
      break;
    }
    const double place = 0.95 * random.uniform();
    const int64_t first = weaver.statements();
    weaver.add_statement(place, std::move(exercise.groups[0][0]));
    weaver.add_question(place + (1 - place) * random.uniform(), std::move(exercise.questions[0]), first);
  }
  finish(weaver, random, length, sample);
}

// Many chains; later places of questions are likelier, so that statements have room before them.
void TaskSet::Impl::dense_chains(Random& random, int64_t length, Sample* sample) const {
  constexpr double kFilled[] = {0.2, 0.4, 0.6, 0.75};
  constexpr int64_t kLinks[] = {2, 3, 3, 4, 5, 5, 5, 5};
  const double total = static_cast<double>(length + 1), wanted = total * kFilled[random.below(4)];
  Draws draws(random, false);
  Weaver weaver;
  for (;;) {
    Exercise exercise = maker->chains(draws, 1, kLinks[random.below(8)]);
    int64_t tokens = weaver.tokens() + exercise.tokens();
    if (weaver.tokens() == 0) {
      if (tokens > length + 1) {
        exercise = maker->chains(draws, 1, 2);
        tokens = exercise.tokens();
      }
      if (tokens > length + 1) too_short(sample->task, tokens - 1, length);
    } else if (static_cast<double>(tokens) > wanted) {
      break;
    }
    const double asked = std::sqrt(random.uniform());
    std::vector<double> places(exercise.groups[0].size());
    for (double& place : places) place = asked * random.uniform();
    std::sort(places.begin(), places.end());
    const int64_t first = weaver.statements();
    for (size_t i = 0; i < places.size(); ++i) weaver.add_statement(places[i], std::move(exercise.groups[0][i]));
    weaver.add_question(asked, std::move(exercise.questions[0]), first);
  }
  finish(weaver, random, length, sample);
}

Sample TaskSet::training_sample(uint64_t seed, int64_t index, int64_t length) const {
  CAIRN_CHECK(index >= 0 && length >= 1, "sample {} of length {}", index, length);
  const Impl& impl = *impl_;
  Random random(stream_key({seed, kTraining, static_cast<uint64_t>(index)}));
  Sample sample;
  const double u = random.uniform();
  // The first task whose cumulative share lies above u: tasks with share 0 are never chosen.
  auto chosen = std::find_if(impl.mix.begin(), impl.mix.end(), [u](const auto& entry) { return u < entry.second; });
  CAIRN_CHECK(chosen != impl.mix.end());  // the last cumulative share is exactly 1
  sample.task = chosen->first;
  if (sample.task == "text") {
    impl.text_sample(random, length, &sample);
  } else if (sample.task == "copy") {
    impl.copy_sample(random, length, &sample);
  } else if (sample.task == "dense_needles") {
    impl.dense_needles(random, length, &sample);
  } else if (sample.task == "dense_chains") {
    impl.dense_chains(random, length, &sample);
  } else if (sample.task == "word_pairs") {
    impl.pairs->training_sample(random, length, impl.options.answer_weight, &sample);
  } else {
    impl.needle_sample(*plans(sample.task), random, length, &sample);
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
  const Exercise exercise = make_exercise(*impl.maker, plans(task)->front(), draws);
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

std::vector<std::string> TaskSet::training_tasks() { return task_names(); }

std::vector<std::string> TaskSet::eval_tasks() {
  return {"single_needle", "multi_query", "variable_tracking", "variable_tracking_2", "word_pairs"};
}

std::shared_ptr<const Tokenizer> make_word_pairs_tokenizer() { return make_word_tokenizer(WordPairs::vocabulary()); }

}  // namespace cairn
