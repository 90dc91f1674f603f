// Training samples: what they say, where it is stated, and that they depend on (seed, index, length) only.
#include <cmath>
#include <map>
#include <thread>

#include "helpers.h"

namespace cairn {
namespace {

const char* kTextTasks[] = {"text",          "copy",        "single_needle", "multi_query", "variable_tracking", "variable_tracking_2",
                            "dense_needles", "dense_chains"};

bool equal(const Sample& a, const Sample& b) {
  return a.task == b.task && a.tokens == b.tokens && a.weight == b.weight && a.is_answer == b.is_answer && a.source == b.source;
}

std::string text_of(const Tokenizer& tokenizer, const Sample& sample) { return tokenizer.decode(sample.tokens); }

// The statements of every sample agree with its answers.
void expect_answers_follow(const Facts& facts) {
  std::map<std::string, std::string> values(facts.statements.begin(), facts.statements.end());
  EXPECT_EQ(values.size(), facts.statements.size()) << "a key is stated twice";
  for (const auto& [key, value] : facts.questions) EXPECT_EQ(values[key], value) << key;
  std::map<std::string, size_t> place;
  std::map<std::string, std::string> root;
  for (size_t i = 0; i < facts.assignments.size(); ++i) {
    const auto& [name, from] = facts.assignments[i];
    EXPECT_FALSE(root.count(name)) << name << " is assigned twice";
    place[name] = i;
    if (std::isdigit(static_cast<unsigned char>(from[0]))) {
      root[name] = from;
    } else {
      ASSERT_TRUE(root.count(from)) << name << " refers to " << from << ", which is not assigned before";
      root[name] = root[from];
    }
  }
  for (const auto& [number, names] : facts.chains) {
    size_t members = 0;
    for (const auto& [name, value] : root) members += value == number;
    EXPECT_EQ(members, names.size()) << "the answer names all variables of the chain";
    for (size_t i = 0; i < names.size(); ++i) {
      ASSERT_TRUE(place.count(names[i]));
      EXPECT_EQ(root[names[i]], number);
      if (i > 0) {
        EXPECT_LT(place[names[i - 1]], place[names[i]]);
      }
    }
  }
}

class TrainingSamples : public testing::TestWithParam<const char*> {
 protected:
  std::shared_ptr<const Tokenizer> tokenizer() const { return GetParam() == std::string("bytes") ? bytes_tokenizer() : piece_tokenizer(); }
};
INSTANTIATE_TEST_SUITE_P(Tokenizers, TrainingSamples, testing::Values("bytes", "pieces"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(TrainingSamples, RowsAgreeWithTheSequence) {
  for (const char* task : kTextTasks) {
    const TaskSet tasks = task_set(tokenizer(), {std::string(task) + ":1"});
    for (const int64_t length : {512, 777, 1024, 2048}) {
      for (int64_t index = 0; index < 12; ++index) {
        const Sample sample = tasks.training_sample(3, index, length);
        ASSERT_EQ(sample.task, task);
        ASSERT_EQ(std::ssize(sample.tokens), length + 1);
        ASSERT_EQ(std::ssize(sample.weight), length);
        ASSERT_EQ(std::ssize(sample.is_answer), length);
        ASSERT_EQ(std::ssize(sample.source), length);
        int64_t answers = 0, stated = 0;
        for (int64_t t = 0; t < length; ++t) {
          const auto [at, key_end] = sample.source[t];
          EXPECT_EQ(sample.weight[t], sample.is_answer[t] && sample.task != "copy" ? 20.0f : 1.0f);
          answers += sample.is_answer[t];
          if (at >= 0) {
            ASSERT_TRUE(sample.is_answer[t]);
            ASSERT_LT(at, t + 1) << "stated before it is predicted";
            ASSERT_EQ(sample.tokens[at], sample.tokens[t + 1]) << task << " row " << t;
            ++stated;
          }
          if (key_end >= 0) {
            ASSERT_GT(key_end, at);
            ASSERT_LT(key_end, t);
          }
        }
        EXPECT_EQ(answers > 0, sample.task != "text");
        // All answer tokens are stated somewhere, but for the full stop behind a list of variables.
        const std::string text = text_of(*tokenizer(), sample);
        EXPECT_EQ(answers - stated, std::ssize(Facts(text).chains)) << task;
      }
    }
  }
}

TEST_P(TrainingSamples, TextsSayWhatTheyShould) {
  const std::map<std::string, std::array<size_t, 4>> counts = {{"text", {0, 0, 0, 0}},
                                                               {"single_needle", {1, 1, 0, 0}},
                                                               {"multi_query", {4, 2, 0, 0}},
                                                               {"variable_tracking", {0, 0, 5, 1}},
                                                               {"variable_tracking_2", {0, 0, 6, 1}}};
  for (const char* task : kTextTasks) {
    if (task == std::string("copy")) continue;
    const TaskSet tasks = task_set(tokenizer(), {std::string(task) + ":1"});
    for (int64_t index = 0; index < 40; ++index) {
      const Sample sample = tasks.training_sample(5, index, 1024);
      const Facts facts(text_of(*tokenizer(), sample));
      expect_answers_follow(facts);
      const auto expected = counts.find(task);
      if (expected != counts.end()) {
        const std::array<size_t, 4> found = {facts.statements.size(), facts.questions.size(), facts.assignments.size(),
                                             facts.chains.size()};
        EXPECT_EQ(found, expected->second) << task;
      }
      if (sample.task == "dense_needles") {
        EXPECT_EQ(facts.statements.size(), facts.questions.size());
        EXPECT_GE(facts.statements.size(), 1u);
      }
      if (sample.task == "dense_chains") {
        size_t members = 0;
        for (const auto& chain : facts.chains) members += chain.second.size();
        EXPECT_EQ(members, facts.assignments.size());
        EXPECT_GE(facts.chains.size(), 1u);
      }
    }
  }
}

// Sentences must come out as the tokenizer writes them in running text, or a question typed by a user would look unlike those of training.
TEST_P(TrainingSamples, SentencesAreEncodedAsInRunningText) {
  const TaskSet tasks = task_set(tokenizer(), {"dense_needles:1", "dense_chains:1"});
  int64_t checked = 0;
  for (int64_t index = 0; index < 30; ++index) {
    const Sample sample = tasks.training_sample(6, index, 1024);
    for (int64_t t = 0; t + 1 < std::ssize(sample.is_answer); ++t) {
      if (!sample.is_answer[t] || sample.is_answer[t + 1]) continue;
      // Row t predicts the last answer token: the question ends there. Its text begins with " What" or " Question".
      const std::string before = tokenizer()->decode(std::span(sample.tokens).first(t + 2));
      const size_t begin = before.rfind(sample.task == "dense_needles" ? " What is the special" : " Question: Find");
      ASSERT_NE(begin, std::string::npos);
      const std::vector<int32_t> ids = tokenizer()->encode(before.substr(begin));
      ASSERT_LE(std::ssize(ids), t + 2);
      EXPECT_EQ(ids, std::vector<int32_t>(sample.tokens.begin() + t + 2 - std::ssize(ids), sample.tokens.begin() + t + 2))
          << before.substr(begin);
      ++checked;
    }
  }
  EXPECT_GE(checked, 30);
}

TEST_P(TrainingSamples, SourcesOfChainsPointAtTheReference) {
  const TaskSet tasks = task_set(tokenizer(), {"variable_tracking:1"});
  for (int64_t index = 0; index < 30; ++index) {
    const Sample sample = tasks.training_sample(8, index, 1024);
    int64_t checked = 0;
    for (size_t t = 0; t < sample.source.size(); ++t) {
      const auto [at, key_end] = sample.source[t];
      if (at < 0) continue;
      const std::string until = tokenizer()->decode(std::span(sample.tokens).first(key_end + 1));
      // " VAR NAME = VAR PREV" or " VAR NAME = 12345", and the answer token lies in NAME.
      static const std::regex pattern(".* VAR [A-Z]{5} = (VAR [A-Z]{5}|[0-9]{5})$");
      EXPECT_TRUE(std::regex_match(until.substr(until.size() - std::min<size_t>(until.size(), 30)), pattern)) << until;
      EXPECT_EQ(tokenizer()->decode_one(sample.tokens[key_end + 1]), " ");
      const std::string upto = tokenizer()->decode(std::span(sample.tokens).first(at));
      EXPECT_NE(upto.rfind(" VAR"), std::string::npos);
      EXPECT_LE(upto.size() - upto.rfind(" VAR"), 4u + 6u);
      ++checked;
    }
    EXPECT_GE(checked, 5);
  }
}

TEST(TrainingSample, IsAPureFunctionOfSeedIndexAndLength) {
  const TaskSet tasks = task_set(bytes_tokenizer(), {}), again = task_set(bytes_tokenizer(), {});
  std::vector<Sample> forward;
  for (int64_t i = 0; i < 60; ++i) forward.push_back(tasks.training_sample(11, i, 1024));
  std::vector<Sample> backward(60);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t i = 59 - t; i >= 0; i -= 3) backward[i] = again.training_sample(11, i, 1024);
    });
  }
  for (auto& thread : threads) thread.join();
  for (int64_t i = 0; i < 60; ++i) EXPECT_TRUE(equal(forward[i], backward[i])) << i;
  for (int64_t i = 1; i < 60; ++i) EXPECT_NE(forward[i].tokens, forward[i - 1].tokens);
  EXPECT_NE(tasks.training_sample(12, 0, 1024).tokens, forward[0].tokens);
  EXPECT_EQ(tasks.training_sample(11, int64_t{1} << 40, 1024).tokens, again.training_sample(11, int64_t{1} << 40, 1024).tokens);
}

TEST(TrainingSample, NeverUsesWhatIsHeldOut) {
  const TaskSet tasks = task_set(bytes_tokenizer(), {"single_needle:1", "multi_query:1", "variable_tracking:1", "variable_tracking_2:1",
                                                     "dense_needles:1", "dense_chains:1"});
  std::set<std::string> seen;
  for (int64_t i = 0; i < 2000; ++i) {
    for (const std::string& s : Facts(text_of(*bytes_tokenizer(), tasks.training_sample(21, i, 1024))).strings()) {
      EXPECT_FALSE(is_held_out(s)) << s;
      seen.insert(s);
    }
  }
  EXPECT_GT(seen.size(), 7000u);
}

TEST(TrainingSample, SharesOfTheMix) {
  const TaskSet tasks = task_set(bytes_tokenizer(), {"text:1", "copy:2", "single_needle:0", "variable_tracking:5"});
  std::map<std::string, int> counts;
  constexpr int kSamples = 4000;
  for (int64_t i = 0; i < kSamples; ++i) ++counts[tasks.training_sample(1, i, 512).task];
  EXPECT_EQ(counts.count("single_needle"), 0u);
  // Five standard deviations of a binomial count.
  for (const auto& [task, share] : std::map<std::string, double>{{"text", 0.125}, {"copy", 0.25}, {"variable_tracking", 0.625}}) {
    EXPECT_NEAR(counts[task], kSamples * share, 5 * std::sqrt(kSamples * share * (1 - share))) << task;
  }
}

TEST(TrainingSample, EveryTaskOfTheDefaultMixWorksFrom512Tokens) {
  for (const auto& tokenizer : {bytes_tokenizer(), piece_tokenizer()}) {
    const TaskSet tasks = task_set(tokenizer, {});
    for (int64_t i = 0; i < 400; ++i) ASSERT_EQ(std::ssize(tasks.training_sample(2, i, 512).tokens), 513) << i;
  }
}

TEST(TrainingSample, DenseTasksFillTheirShare) {
  const auto tokenizer = piece_tokenizer();
  for (const auto& [task, low, high] : {std::tuple{"dense_needles", 0.25, 0.61}, std::tuple{"dense_chains", 0.15, 0.76}}) {
    const TaskSet tasks = task_set(tokenizer, {std::string(task) + ":1"});
    const std::set<int32_t> plain = [&] {
      const auto ids = tokenizer->encode(plain_text(20000, 1));
      return std::set<int32_t>(ids.begin(), ids.end());
    }();
    double least = 1, most = 0;
    for (int64_t i = 0; i < 60; ++i) {
      const Sample sample = tasks.training_sample(4, i, 4096);
      const std::string text = text_of(*tokenizer, sample);
      // Token count of what remains when the generated sentences are taken out is not needed exactly: count by characters of the haystack's
      // words.
      const std::regex generated(
          " One of the special magic numbers for [a-z-]+ is: [0-9]{7}\\.| What is the special[^?]*\\?[^.]*\\.| VAR [A-Z]{5} = (VAR "
          ")?[A-Z0-9]{5} | Question: "
          "Find[^.]*\\.[^.]*\\.");
      const std::string rest = std::regex_replace(text, generated, "");
      const double filled = 1.0 - static_cast<double>(tokenizer->encode(rest).size()) / 4097.0;
      least = std::min(least, filled), most = std::max(most, filled);
    }
    EXPECT_GT(least, low) << task;
    EXPECT_LT(most, high) << task;
    EXPECT_GT(most - least, 0.2) << task << ": several densities occur";
  }
}

TEST(TrainingSample, NeedlesStandAnywhere) {
  const TaskSet tasks = task_set(bytes_tokenizer(), {"single_needle:1"});
  constexpr int kSamples = 2000;
  std::array<int, 10> bins{};
  for (int64_t i = 0; i < kSamples; ++i) {
    const std::string text = text_of(*bytes_tokenizer(), tasks.training_sample(31, i, 2048));
    const size_t needle = text.find(" One of the special"), question = text.find(" What is the special");
    ASSERT_LT(needle, question);
    const size_t end = text.find('.', needle) + 1;
    const double place = static_cast<double>(needle) / static_cast<double>(question - (end - needle) + 1);
    ++bins[std::min(9, static_cast<int>(place * 10))];
  }
  double chi = 0;
  for (const int n : bins) chi += (n - 200.0) * (n - 200.0) / 200.0;
  EXPECT_LT(chi, 33.7) << "chi square with 9 degrees of freedom, p = 1e-4";
}

TEST(TrainingSample, Copies) {
  const TaskSet tasks = task_set(bytes_tokenizer(), {"copy:1"});
  int random = 0;
  constexpr int kSamples = 600;
  for (int64_t i = 0; i < kSamples; ++i) {
    const int64_t length = 200 + i % 7;
    const Sample sample = tasks.training_sample(41, i, length);
    const int64_t passage = (length + 1) / 2;
    for (int64_t t = 0; t < length; ++t) {
      const bool counts = t + 1 >= passage + 32;
      ASSERT_EQ(sample.is_answer[t], counts);
      ASSERT_EQ(sample.weight[t], 1.0f);
      ASSERT_EQ(sample.source[t][0], counts ? t + 1 - passage : -1);
      ASSERT_EQ(sample.source[t][1], -1);
    }
    for (const int32_t token : sample.tokens) {
      if (token > 1 + 'z') {
        ++random;
        break;
      }
    }
  }
  EXPECT_NEAR(random, 0.3 * kSamples, 5 * std::sqrt(kSamples * 0.21));
}

TEST(TrainingSample, TooShortNamesALengthThatWorks) {
  for (const char* task :
       {"copy", "single_needle", "multi_query", "variable_tracking", "variable_tracking_2", "dense_needles", "dense_chains"}) {
    const TaskSet tasks = task_set(bytes_tokenizer(), {std::string(task) + ":1"});
    try {
      tasks.training_sample(1, 0, 40);
      FAIL() << task;
    } catch (const UserError& error) {
      std::smatch match;
      const std::string message = error.what();
      ASSERT_TRUE(std::regex_search(message, match, std::regex("at least ([0-9]+) tokens, not 40"))) << message;
      EXPECT_NE(message.find(task), std::string::npos);
      const int64_t needed = std::stoll(match[1]);
      EXPECT_EQ(std::ssize(tasks.training_sample(1, 0, needed).tokens), needed + 1);
      EXPECT_THROW(tasks.training_sample(1, 0, needed - 1), UserError);
    }
  }
}

TEST(TrainingSample, TextThatIsTooShort) {
  const auto tokenizer = bytes_tokenizer();
  const TaskSet tasks(tokenizer, std::make_shared<VectorSource>(std::vector<int32_t>(500, 1)), TaskOptions{.mix = {"text:1"}});
  EXPECT_EQ(std::ssize(tasks.training_sample(1, 0, 499).tokens), 500);
  try {
    tasks.training_sample(1, 0, 500);
    FAIL();
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("501"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("500"), std::string::npos) << error.what();
  }
}

TEST(TrainingSample, AnswerWeightIsAnOption) {
  const auto tokenizer = bytes_tokenizer();
  const TaskSet tasks(tokenizer, plain_source(*tokenizer), TaskOptions{.mix = {"single_needle:1"}, .answer_weight = 3.5});
  const Sample sample = tasks.training_sample(1, 0, 1024);
  EXPECT_EQ(sample.weight.back(), 3.5f);
  EXPECT_EQ(sample.weight.front(), 1.0f);
}

}  // namespace
}  // namespace cairn
