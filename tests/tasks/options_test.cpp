// Mistakes in the options of the tasks.
#include "helpers.h"

namespace cairn {
namespace {

std::string message_of(std::vector<std::string> mix, std::shared_ptr<const Tokenizer> tokenizer = bytes_tokenizer(), bool text = true) {
  try {
    TaskOptions options;
    options.mix = std::move(mix);
    TaskSet(tokenizer, text ? std::make_shared<VectorSource>(std::vector<int32_t>(10000, 1)) : nullptr, options);
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

TEST(TaskOptionsTest, MistakesAreNamed) {
  EXPECT_NE(message_of({"multi_querry:1"}).find("did you mean 'multi_query'"), std::string::npos);
  EXPECT_NE(message_of({"copy:-0.5"}).find("-0.5"), std::string::npos);
  EXPECT_NE(message_of({"copy:nan"}), "");
  EXPECT_NE(message_of({"copy:inf"}), "");
  EXPECT_NE(message_of({"copy"}).find("TASK:SHARE"), std::string::npos);
  EXPECT_NE(message_of({"copy:"}), "");
  EXPECT_NE(message_of({"copy:0.1x"}), "");
  EXPECT_NE(message_of({"copy:0", "text:0"}).find("all shares are 0"), std::string::npos);
  EXPECT_NE(message_of({}), "");
  EXPECT_NE(message_of({"copy:1", "copy:1"}).find("twice"), std::string::npos);
  EXPECT_NE(message_of({"word_pairs:1"}).find("word_pairs"), std::string::npos);
  EXPECT_NE(message_of({"single_needle:1"}, make_word_pairs_tokenizer()).find("tokenizer"), std::string::npos);
  EXPECT_NE(message_of({"text:1"}, bytes_tokenizer(), false).find("training text"), std::string::npos);
  EXPECT_EQ(message_of({"text:1", "word_pairs:0"}), "");
  EXPECT_EQ(message_of({"word_pairs:1"}, make_word_pairs_tokenizer(), false), "");
}

TEST(TaskOptionsTest, DeclaredOnce) {
  TaskOptions options;
  OptionTable table;
  options.declare(table);
  table.load_toml_text("[tasks]\nmix = [\"copy:1\"]\nanswer_weight = 7\npair_needles = 4\n", "test");
  EXPECT_EQ(options.mix, std::vector<std::string>{"copy:1"});
  EXPECT_EQ(options.answer_weight, 7);
  EXPECT_EQ(options.pair_needles, 4);
  EXPECT_THROW(table.load_toml_text("[tasks]\npair_needles = 17\n", "test"), UserError);
  EXPECT_THROW(table.load_toml_text("[tasks]\nmixx = []\n", "test"), UserError);
}

TEST(TaskOptionsTest, ListsOfTasks) {
  const auto training = TaskSet::training_tasks();
  for (const auto& task : TaskSet::eval_tasks()) EXPECT_NE(std::find(training.begin(), training.end(), task), training.end());
}

TEST(Words, ListsHaveNoDoublesAndBothSplits) {
  std::set<std::string_view> all;
  for (const auto list : {adjectives(), nouns()}) {
    for (const auto word : list) {
      EXPECT_TRUE(all.insert(word).second) << word;
      EXPECT_LE(word.size(), 8u);
      for (const char c : word) EXPECT_TRUE(c >= 'a' && c <= 'z') << word;
    }
  }
  EXPECT_GE(adjectives().size(), 200u);
  EXPECT_GE(nouns().size(), 400u);
  int64_t held_out = 0, keys = 0;
  for (const auto a : adjectives()) {
    for (const auto b : nouns()) ++keys, held_out += is_held_out(std::string(a) + "-" + std::string(b));
  }
  EXPECT_NEAR(static_cast<double>(held_out) / static_cast<double>(keys), 1.0 / 16, 0.005);
}

}  // namespace
}  // namespace cairn
