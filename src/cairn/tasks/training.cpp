#include "cairn/tasks/training.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/tasks/haystack.h"

namespace cairn {
namespace {

constexpr double kRandomCopies = 0.3;  // share of copy samples made of random tokens
constexpr int64_t kCopyLead = 32;      // copied tokens at the start of the repetition that do not count: nothing says that a copy begins

[[noreturn]] void too_short(const std::string& task, int64_t needed, int64_t length) {
  throw UserError("{} needs a training length of at least {} tokens, not {}; use longer sequences or take it out of tasks.mix", task,
                  needed, length);
}

}  // namespace

Exercise Plan::make(const NeedleMaker& maker, Draws& draws) const {
  return chains ? maker.chains(draws, groups, links) : maker.needles(draws, groups, asked);
}

const std::vector<Plan>& plans(const std::string& task) {
  static const std::map<std::string, std::vector<Plan>> table = {
      {"single_needle", {{false, 1, 1, 1}}},
      {"multi_query", {{false, 4, 1, 2}, {false, 3, 1, 2}, {false, 2, 1, 2}, {false, 2, 1, 1}}},
      {"variable_tracking", {{true, 1, 5}, {true, 1, 4}, {true, 1, 3}, {true, 1, 2}}},
      {"variable_tracking_2", {{true, 2, 3}, {true, 2, 2}}},
  };
  const auto found = table.find(task);
  CAIRN_CHECK(found != table.end(), "{}", task);
  return found->second;
}

void TrainingSamples::make(Random& random, int64_t length, Sample* sample) const {
  if (sample->task == "text") return text_sample(random, length, sample);
  if (sample->task == "copy") return copy_sample(random, length, sample);
  if (sample->task == "dense_needles") return dense_needles(random, length, sample);
  if (sample->task == "dense_chains") return dense_chains(random, length, sample);
  needle_sample(plans(sample->task), random, length, sample);
}

void TrainingSamples::read_text(const std::string& task, Random& random, std::span<int32_t> out) const {
  text_->read(haystack_window(random, *text_, std::ssize(out), task), out);
}

void TrainingSamples::finish(Weaver& weaver, Random& random, int64_t length, Sample* sample) const {
  weaver.weave(
      length, answer_weight_, [&](std::span<int32_t> out) { read_text(sample->task, random, out); }, sample);
}

void TrainingSamples::text_sample(Random& random, int64_t length, Sample* sample) const {
  clear_sample(length, sample);
  read_text(sample->task, random, sample->tokens);
}

void TrainingSamples::copy_sample(Random& random, int64_t length, Sample* sample) const {
  const int64_t passage = (length + 1) / 2, first = passage + kCopyLead;  // first token that counts
  if (first > length) too_short("copy", 2 * kCopyLead, length);
  clear_sample(length, sample);
  const std::span<int32_t> tokens(sample->tokens);
  if (random.chance(kRandomCopies)) {
    for (int32_t& token : tokens.first(passage)) token = static_cast<int32_t>(random.below(tokenizer_->vocab_size()));
  } else {
    read_text("copy", random, tokens.first(passage));
  }
  for (int64_t p = passage; p <= length; ++p) tokens[p] = tokens[p - passage];
  for (int64_t p = first; p <= length; ++p) {
    sample->is_answer[p - 1] = 1;
    sample->source[p - 1] = {p - passage, -1};
  }
}

void TrainingSamples::needle_sample(const std::vector<Plan>& attempts, Random& random, int64_t length, Sample* sample) const {
  int64_t needed = 0;
  for (const Plan& plan : attempts) {
    Draws draws(random, false);
    const Exercise exercise = plan.make(*maker_, draws);
    needed = exercise.tokens() - 1;
    if (needed > length) continue;
    Weaver weaver;
    add_with_questions_last(exercise, random, &weaver);
    return finish(weaver, random, length, sample);
  }
  too_short(sample->task, needed, length);
}

// Many key-value sentences, each asked somewhere behind it.
void TrainingSamples::dense_needles(Random& random, int64_t length, Sample* sample) const {
  constexpr double kFilled[] = {0.3, 0.45, 0.6};
  const double total = static_cast<double>(length + 1), wanted = total * kFilled[random.below(3)];
  Draws draws(random, false);
  Weaver weaver;
  for (;;) {
    Exercise exercise = maker_->needles(draws, 1, 1);
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
void TrainingSamples::dense_chains(Random& random, int64_t length, Sample* sample) const {
  constexpr double kFilled[] = {0.2, 0.4, 0.6, 0.75};
  constexpr int64_t kLinks[] = {2, 3, 3, 4, 5, 5, 5, 5};
  const double total = static_cast<double>(length + 1), wanted = total * kFilled[random.below(4)];
  Draws draws(random, false);
  Weaver weaver;
  for (;;) {
    Exercise exercise = maker_->chains(draws, 1, kLinks[random.below(8)]);
    int64_t tokens = weaver.tokens() + exercise.tokens();
    if (weaver.tokens() == 0) {
      if (tokens > length + 1) {
        exercise = maker_->chains(draws, 1, 2);
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

}  // namespace cairn
