// Evaluation samples: symbolic, of any length, with what is held out only.
#include <cmath>
#include <map>

#include "helpers.h"

namespace cairn {
namespace {

const char* kTasks[] = {"single_needle", "multi_query", "variable_tracking", "variable_tracking_2"};

void expect_well_formed(const EvalSample& sample) {
  const int64_t tail_begin = sample.length - std::ssize(sample.tail);
  int64_t end = 0;
  for (const Edit& edit : sample.edits) {
    EXPECT_GE(edit.position, end) << "sorted and disjoint";
    EXPECT_FALSE(edit.ids.empty());
    end = edit.position + std::ssize(edit.ids);
  }
  EXPECT_LE(end, tail_begin);
  EXPECT_GE(sample.haystack_begin, 0);
  EXPECT_LE(sample.haystack_begin + tail_begin, sample.haystack->size());
  EXPECT_GE(sample.depth, 0);
  EXPECT_LT(sample.depth, 1);
  ASSERT_FALSE(sample.answers.empty());
  int64_t before = 0;
  for (const EvalAnswer& answer : sample.answers) {
    EXPECT_GT(answer.begin, before);
    EXPECT_GT(answer.end, answer.begin);
    EXPECT_EQ(std::ssize(answer.source), answer.end - answer.begin);
    before = answer.end;
    for (int64_t j = answer.begin; j < answer.end; ++j) {
      const auto [at, key_end] = answer.source[j - answer.begin];
      if (at < 0) continue;
      int32_t token = -1;
      read_sample(sample, at, std::span(&token, 1));
      EXPECT_EQ(token, sample.tail[j]);
      if (key_end >= 0) {
        EXPECT_GT(key_end, at);
      }
    }
  }
  EXPECT_EQ(before, std::ssize(sample.tail)) << "the sample ends with its last answer";
}

TEST(EvalSampleTest, SaysWhatItAsks) {
  for (const auto& tokenizer : {bytes_tokenizer(), piece_tokenizer()}) {
    const TaskSet tasks = task_set(tokenizer, {});
    const auto haystack = plain_source(*tokenizer);
    for (const char* task : kTasks) {
      for (int64_t index = 0; index < 25; ++index) {
        const EvalSample sample = tasks.eval_sample(task, 9, index, 3000 + 17 * index, haystack);
        EXPECT_EQ(sample.task, task);
        EXPECT_EQ(sample.index, index);
        expect_well_formed(sample);
        const Facts facts(tokenizer->decode(whole(sample)));
        const std::map<std::string, std::string> values(facts.statements.begin(), facts.statements.end());
        const bool chains = std::string(task).starts_with("variable");
        EXPECT_EQ(facts.statements.size(), chains ? 0u : task == std::string("multi_query") ? 4u : 1u);
        EXPECT_EQ(facts.assignments.size(), !chains ? 0u : task == std::string("variable_tracking") ? 5u : 6u);
        ASSERT_EQ(sample.answers.size(), chains ? facts.chains.size() : facts.questions.size());
        ASSERT_EQ(sample.answers.size(), task == std::string("multi_query") ? 2u : 1u);
        for (size_t i = 0; i < sample.answers.size(); ++i) {
          const EvalAnswer& answer = sample.answers[i];
          const std::string said = tokenizer->decode(std::span(sample.tail).subspan(answer.begin, answer.end - answer.begin));
          if (chains) {
            EXPECT_EQ(answer.references, facts.chains[i].second);
            std::string list;
            for (const auto& name : answer.references) list += " " + name;
            EXPECT_EQ(said, list + ".");
            // The chain stands in order in the text.
            std::vector<std::string> order;
            std::string previous = facts.chains[i].first;
            for (const auto& [name, from] : facts.assignments) {
              if (from == previous) order.push_back(name), previous = name;
            }
            EXPECT_EQ(order, answer.references);
          } else {
            EXPECT_TRUE(answer.references.empty());
            EXPECT_EQ(answer.reference, values.at(facts.questions[i].first));
            EXPECT_EQ(said, " " + answer.reference + ".");
          }
        }
      }
    }
  }
}

TEST(EvalSampleTest, UsesOnlyWhatIsHeldOut) {
  const TaskSet tasks = task_set(bytes_tokenizer(), {});
  const auto haystack = plain_source(*bytes_tokenizer());
  std::set<std::string> seen;
  for (const char* task : kTasks) {
    for (int64_t index = 0; index < 300; ++index) {
      for (const std::string& s : Facts(bytes_tokenizer()->decode(whole(tasks.eval_sample(task, 2, index, 1500, haystack)))).strings()) {
        EXPECT_TRUE(is_held_out(s)) << s;
        seen.insert(s);
      }
    }
  }
  EXPECT_GT(seen.size(), 4000u) << "samples differ from each other";
}

TEST(EvalSampleTest, IsDeterministic) {
  const TaskSet a = task_set(piece_tokenizer(), {}), b = task_set(piece_tokenizer(), {});
  const auto haystack = plain_source(*piece_tokenizer());
  for (const char* task : kTasks) {
    const auto one = whole(a.eval_sample(task, 5, 3, 2000, haystack));
    EXPECT_EQ(one, whole(b.eval_sample(task, 5, 3, 2000, haystack)));
    EXPECT_NE(one, whole(a.eval_sample(task, 5, 4, 2000, haystack)));
    EXPECT_NE(one, whole(a.eval_sample(task, 6, 3, 2000, haystack)));
  }
}

TEST(EvalSampleTest, PiecesEqualTheWhole) {
  const TaskSet tasks = task_set(bytes_tokenizer(), {});
  const auto haystack = plain_source(*bytes_tokenizer());
  Random random(1, 2);
  for (const char* task : kTasks) {
    const EvalSample sample = tasks.eval_sample(task, 1, 0, 1200, haystack);
    const auto all = whole(sample);
    // The haystack shows wherever nothing is laid over it.
    std::vector<int32_t> plain(sample.length - sample.tail.size());
    haystack->read(sample.haystack_begin, plain);
    for (const Edit& edit : sample.edits) std::copy(edit.ids.begin(), edit.ids.end(), plain.begin() + edit.position);
    plain.insert(plain.end(), sample.tail.begin(), sample.tail.end());
    ASSERT_EQ(all, plain);
    for (int round = 0; round < 300; ++round) {
      const int64_t begin = random.below(sample.length), n = random.below(sample.length - begin + 1);
      std::vector<int32_t> part(n);
      read_sample(sample, begin, part);
      ASSERT_TRUE(std::equal(part.begin(), part.end(), all.begin() + begin)) << begin << " + " << n;
    }
    std::vector<int32_t> single(sample.length);
    for (int64_t p = 0; p < sample.length; ++p) read_sample(sample, p, std::span(single).subspan(p, 1));
    EXPECT_EQ(single, all);
  }
}

TEST(EvalSampleTest, PositionsBeyond31Bits) {
  const TaskSet tasks = task_set(bytes_tokenizer(), {});
  const auto haystack = std::make_shared<VirtualSource>(int64_t{1} << 45);
  constexpr int64_t kLength = (int64_t{1} << 40) + 12345;
  int64_t far = 0;
  for (const char* task : kTasks) {
    for (int64_t index = 0; index < 10; ++index) {
      const EvalSample sample = tasks.eval_sample(task, 3, index, kLength, haystack);
      expect_well_formed(sample);
      EXPECT_GT(sample.haystack_begin, int64_t{1} << 31);
      for (const Edit& edit : sample.edits) {
        std::vector<int32_t> around(edit.ids.size() + 2);
        read_sample(sample, edit.position - 1, around);
        EXPECT_EQ(around.front(), VirtualSource::token(sample.haystack_begin + edit.position - 1));
        EXPECT_TRUE(std::equal(edit.ids.begin(), edit.ids.end(), around.begin() + 1));
        EXPECT_EQ(around.back(), VirtualSource::token(sample.haystack_begin + edit.position + std::ssize(edit.ids)));
        far += edit.position > int64_t{1} << 31;
      }
      std::vector<int32_t> end(sample.tail.size());
      read_sample(sample, kLength - std::ssize(end), end);
      EXPECT_EQ(end, sample.tail);
    }
  }
  EXPECT_GT(far, 100);
}

TEST(EvalSampleTest, DepthsFillEvenly) {
  const TaskSet tasks = task_set(bytes_tokenizer(), {});
  const auto haystack = std::make_shared<VirtualSource>(int64_t{1} << 30);
  for (const char* task : kTasks) {
    std::array<int, 10> bins{};
    std::vector<double> all;
    for (int64_t index = 0; index < 200; ++index) {
      const EvalSample sample = tasks.eval_sample(task, 7, index, 10'000'000, haystack);
      ++bins[static_cast<int>(sample.depth * 10)];
      EXPECT_NEAR(sample.depth, (static_cast<double>(index % 10) + 0.5) / 10, 0.0501);
      bool found = false;
      for (const Edit& edit : sample.edits) {
        found |= std::abs(static_cast<double>(edit.position) / 1e7 - sample.depth) < 1e-12;
        all.push_back(static_cast<double>(edit.position) / 1e7);
      }
      EXPECT_TRUE(found) << "the depth is that of a needle";
      // It is a needle that the first answer needs.
      bool needed = false;
      for (const auto& source : sample.answers[0].source) {
        if (source[0] >= 0) needed |= std::abs(static_cast<double>(source[0]) / 1e7 - sample.depth) < 2e-5;
      }
      EXPECT_TRUE(needed) << task;
    }
    for (const int n : bins) EXPECT_NEAR(n, 20, 2) << task;
    // All statements together are uniform: Kolmogorov-Smirnov at p = 1e-4.
    std::sort(all.begin(), all.end());
    double worst = 0;
    for (size_t i = 0; i < all.size(); ++i)
      worst = std::max(worst, std::abs(all[i] - (static_cast<double>(i) + 0.5) / static_cast<double>(all.size())));
    EXPECT_LT(worst, 2.23 / std::sqrt(static_cast<double>(all.size()))) << task;
  }
}

TEST(EvalSampleTest, GeneratedHaystacks) {
  const auto tokenizer = bytes_tokenizer();
  const TaskSet tasks = task_set(tokenizer, {});
  for (const char* name : {"noise", "prose:3"}) {
    const auto haystack = open_token_source(name, tokenizer);
    const EvalSample sample = tasks.eval_sample("multi_query", 1, 2, 60000, haystack);
    expect_well_formed(sample);
    const Facts facts(tokenizer->decode(whole(sample)));
    EXPECT_EQ(facts.statements.size(), 4u) << name;
    EXPECT_EQ(facts.questions.size(), 2u) << name;
  }
}

TEST(EvalSampleTest, TightestFit) {
  // Nothing but needles and questions: every token is edited or tail, statements touch without overlapping.
  const TaskSet tasks = task_set(bytes_tokenizer(), {});
  const auto haystack = std::make_shared<VirtualSource>(int64_t{1} << 20);
  for (const char* task : kTasks) {
    int64_t length = 100;
    for (int tries = 0; tries < 50; ++tries) {
      try {
        const EvalSample sample = tasks.eval_sample(task, 1, 0, length, haystack);
        expect_well_formed(sample);
        break;
      } catch (const UserError& error) {
        std::smatch match;
        const std::string message = error.what();
        ASSERT_TRUE(std::regex_search(message, match, std::regex("at least ([0-9]+) tokens, not ([0-9]+)"))) << message;
        EXPECT_EQ(std::stoll(match[2]), length);
        EXPECT_GT(std::stoll(match[1]), length);
        length = std::stoll(match[1]);
      }
    }
    EXPECT_GT(length, 200);
    EXPECT_LT(length, 1000);
  }
}

TEST(EvalSampleTest, Refusals) {
  const TaskSet tasks = task_set(bytes_tokenizer(), {});
  const auto haystack = std::make_shared<VirtualSource>(5000);
  try {
    tasks.eval_sample("single_needle", 1, 0, 100000, haystack);
    FAIL();
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("5000"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("virtual"), std::string::npos) << error.what();
  }
  try {
    tasks.eval_sample("single_nedle", 1, 0, 1000, haystack);
    FAIL();
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("single_needle"), std::string::npos) << error.what();
  }
  EXPECT_THROW(tasks.eval_sample("dense_chains", 1, 0, 1000, haystack), UserError);
  EXPECT_THROW(tasks.eval_sample("single_needle", 1, 0, 1000, nullptr), UserError);
  EXPECT_THROW(tasks.eval_sample("word_pairs", 1, 0, 1000, nullptr), UserError);
  EXPECT_THROW(tasks.eval_sample("single_needle", 1, 0, 0, haystack), UserError);
}

}  // namespace
}  // namespace cairn
