// The task of tiny models.
#include "cairn/tasks/word_pairs.h"

#include <map>
#include <sstream>

#include "helpers.h"

namespace cairn {
namespace {

TaskSet pairs(int64_t needles = 6) {
  return TaskSet(make_word_pairs_tokenizer(), nullptr, TaskOptions{.mix = {"word_pairs:1"}, .pair_needles = needles});
}

struct Pairs {
  std::vector<std::pair<std::string, std::string>> statements, questions;
  explicit Pairs(const std::string& text) {
    static const std::regex statement("([a-z]+) is ([a-z]+)"), question("ask ([a-z]+) ([a-z]+)");
    const std::sregex_iterator end;
    for (std::sregex_iterator it(text.begin(), text.end(), statement); it != end; ++it) statements.emplace_back((*it)[1], (*it)[2]);
    for (std::sregex_iterator it(text.begin(), text.end(), question); it != end; ++it) questions.emplace_back((*it)[1], (*it)[2]);
  }
};

TEST(WordPairsTest, Tokenizer) {
  const auto tokenizer = make_word_pairs_tokenizer();
  EXPECT_EQ(tokenizer->vocab_size(), 1 + 2 + 32 + 128);
  for (int64_t i = 0; i < WordPairs::kWords; ++i) {
    const std::string word(WordPairs::word(i));
    ASSERT_EQ(tokenizer->encode(word).size(), 1u);
    EXPECT_FALSE(WordPairs::is_filler(tokenizer->encode(word)[0]));
  }
  EXPECT_TRUE(WordPairs::is_filler(tokenizer->encode("then")[0]));
  for (const char* mark : {"is", "ask"}) EXPECT_FALSE(WordPairs::is_filler(tokenizer->encode(mark)[0]));
}

TEST(WordPairsTest, TrainingSamples) {
  const auto tokenizer = make_word_pairs_tokenizer();
  const TaskSet tasks = pairs();
  int64_t middle = 0, questions = 0;
  for (int64_t i = 0; i < 2000; ++i) {
    const Sample sample = tasks.training_sample(1, i, 128);
    ASSERT_EQ(sample.tokens.size(), 129u);
    const Pairs found(tokenizer->decode(sample.tokens));
    const std::map<std::string, std::string> values(found.statements.begin(), found.statements.end());
    ASSERT_EQ(values.size(), 6u);
    ASSERT_EQ(found.statements.size(), 6u);
    ASSERT_EQ(found.questions.size(), 6u);
    for (const auto& [key, value] : found.questions) {
      ASSERT_EQ(values.at(key), value);
      ASSERT_FALSE(is_held_out(key + " " + value));
      ASSERT_NE(key, value);
    }
    int64_t answers = 0;
    for (int64_t t = 0; t < 128; ++t) {
      ASSERT_EQ(sample.weight[t], sample.is_answer[t] ? 20.0f : 1.0f);
      ASSERT_EQ(sample.source[t][0] >= 0, sample.is_answer[t] != 0);
      ASSERT_EQ(sample.source[t][1], -1);
      if (!sample.is_answer[t]) continue;
      ++answers;
      ASSERT_LT(sample.source[t][0], t - 1);
      ASSERT_EQ(sample.tokens[sample.source[t][0]], sample.tokens[t + 1]);
      ASSERT_EQ(tokenizer->decode_one(sample.tokens[t - 1]), "ask");
      middle += t < 128 - 18;
    }
    ASSERT_EQ(answers, 6);
    questions += answers;
  }
  EXPECT_GT(middle, questions / 4);
  EXPECT_LT(middle, questions * 3 / 4);
  EXPECT_EQ(tasks.training_sample(1, 77, 128).tokens, pairs().training_sample(1, 77, 128).tokens);
}

TEST(WordPairsTest, TooManyForTheLength) {
  EXPECT_EQ(pairs(14).training_sample(1, 0, 83).tokens.size(), 84u);
  EXPECT_THROW(pairs(14).training_sample(1, 0, 82), UserError);
  EXPECT_THROW(pairs(0), UserError);
  EXPECT_THROW(pairs(17), UserError);
}

TEST(WordPairsTest, RivalsAtRandomAccess) {
  const auto tokenizer = make_word_pairs_tokenizer();
  constexpr int64_t kExcluded = 17;
  const auto rivals = WordPairs::rivals(99, 6, kExcluded);
  EXPECT_EQ(rivals->size(), TokenSource::kUnlimited);
  std::vector<int32_t> all(128 * 200);
  rivals->read(0, all);
  const Pairs found(tokenizer->decode(all));
  EXPECT_EQ(found.statements.size(), 6u * 200) << "none is cut, six a block";
  std::set<std::string> keys;
  for (const auto& [key, value] : found.statements) keys.insert(key);
  EXPECT_EQ(keys.size(), static_cast<size_t>(WordPairs::kKeys - 1));
  EXPECT_EQ(keys.count(std::string(WordPairs::word(kExcluded))), 0u);
  Random random(3, 3);
  for (int round = 0; round < 200; ++round) {
    const int64_t begin = random.below(std::ssize(all)), n = random.below(std::min<int64_t>(700, std::ssize(all) - begin) + 1);
    std::vector<int32_t> part(n);
    rivals->read(begin, part);
    ASSERT_TRUE(std::equal(part.begin(), part.end(), all.begin() + begin));
  }
  std::vector<int32_t> far(128), near(128);
  rivals->read((int64_t{1} << 40) * 128, far);
  rivals->read(0, near);
  EXPECT_NE(far, near);
}

TEST(WordPairsTest, EvalSamples) {
  const auto tokenizer = make_word_pairs_tokenizer();
  const TaskSet tasks = pairs();
  for (const int64_t length : {32, 256, 4096, 131072}) {
    for (int64_t index = 0; index < (length > 100000 ? 4 : 20); ++index) {
      const EvalSample sample = tasks.eval_sample("word_pairs", 4, index, length, nullptr);
      ASSERT_EQ(sample.length, length);
      const auto tokens = whole(sample);
      const Pairs found(tokenizer->decode(tokens));
      ASSERT_EQ(found.questions.size(), 1u);
      const auto& [key, value] = found.questions[0];
      EXPECT_TRUE(is_held_out(key + " " + value));
      int64_t stated = 0;
      for (const auto& [k, v] : found.statements) {
        if (k != key) continue;
        ++stated;
        EXPECT_EQ(v, value);
      }
      EXPECT_EQ(stated, 1);
      if (length >= 4096) {
        EXPECT_NEAR(static_cast<double>(found.statements.size()), static_cast<double>(length) * 6 / 128, 12);
        EXPECT_NEAR(sample.depth, (static_cast<double>(index % 10) + 0.5) / 10, 0.0515);
      }
      ASSERT_EQ(sample.answers.size(), 1u);
      EXPECT_EQ(sample.answers[0].reference, value);
      EXPECT_EQ(sample.answers[0].end, std::ssize(sample.tail));
      EXPECT_EQ(tokens[sample.answers[0].source[0][0]], tokens.back());
      EXPECT_EQ(tokenizer->decode_one(tokens.back()), value);
    }
  }
  EXPECT_THROW(tasks.eval_sample("word_pairs", 1, 0, 5, nullptr), UserError);
  EXPECT_EQ(tasks.eval_sample("word_pairs", 1, 0, 6, nullptr).edits[0].position, 0);
  EXPECT_THROW(tasks.eval_sample("single_needle", 1, 0, 1000, std::make_shared<VirtualSource>(5000)), UserError);
}

TEST(WordPairsTest, EvalSamplesInAGivenHaystack) {
  const auto tokenizer = make_word_pairs_tokenizer();
  const auto haystack = std::make_shared<VectorSource>(std::vector<int32_t>(3000, tokenizer->encode("then")[0]));
  const EvalSample sample = pairs().eval_sample("word_pairs", 1, 5, 2000, haystack);
  EXPECT_EQ(Pairs(tokenizer->decode(whole(sample))).statements.size(), 1u);
  EXPECT_THROW(pairs().eval_sample("word_pairs", 1, 5, 4000, haystack), UserError);
}

TEST(WordPairsTest, FarAway) {
  constexpr int64_t kLength = int64_t{1} << 36;
  const EvalSample sample = pairs().eval_sample("word_pairs", 1, 9, kLength, nullptr);
  EXPECT_GT(sample.edits[0].position, int64_t{1} << 35);
  int32_t token = 0;
  read_sample(sample, sample.answers[0].source[0][0], std::span(&token, 1));
  EXPECT_EQ(token, sample.tail[sample.answers[0].begin]);
}

}  // namespace
}  // namespace cairn
