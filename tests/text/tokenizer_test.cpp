// Bytes, words, loading by name, training.
#include "cairn/text/tokenizer.h"

#include "text_fixture.h"

namespace cairn {
namespace {

using testing::expect_user_error;
using testing::Scratch;

TEST(BytesTokenizer, EveryTextComesBack) {
  const auto tokenizer = load_tokenizer("bytes");
  EXPECT_EQ(tokenizer->vocab_size(), 257);
  EXPECT_EQ(tokenizer->kind(), "bytes");
  Random random(3, 1);
  for (int i = 0; i < 500; ++i) {
    const std::string text = testing::wild_text(&random, 20);
    const auto ids = tokenizer->encode(text);
    ASSERT_EQ(ids.size(), text.size());
    ASSERT_EQ(tokenizer->decode(ids), text);
    for (const int32_t id : ids) ASSERT_NE(id, tokenizer->pad_id());
  }
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{0, 98, 0}), "a");
  expect_user_error([&] { tokenizer->decode(std::vector<int32_t>{257}); }, {"257"});
  expect_user_error([&] { tokenizer->encode("a\x80"); }, {"offset 1"});
  EXPECT_EQ(parse_tokenizer(tokenizer->serialized(), "again")->fingerprint(), tokenizer->fingerprint());
}

TEST(WordTokenizer, WordsComeBack) {
  const auto tokenizer = make_word_tokenizer({"red", "green", "blue", "\xC3\xA9t\xC3\xA9"});
  EXPECT_EQ(tokenizer->vocab_size(), 5);
  EXPECT_EQ(tokenizer->encode("green red \xC3\xA9t\xC3\xA9"), (std::vector<int32_t>{2, 1, 4}));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{2, 0, 3}), "green <pad> blue");
  EXPECT_EQ(tokenizer->encode("green <pad> blue"), (std::vector<int32_t>{2, 0, 3}));
  EXPECT_TRUE(tokenizer->encode("").empty());
  const auto again = parse_tokenizer(tokenizer->serialized(), "again");
  EXPECT_EQ(again->fingerprint(), tokenizer->fingerprint());
  EXPECT_EQ(again->decode_one(4), "\xC3\xA9t\xC3\xA9");
  EXPECT_NE(make_word_tokenizer({"green", "red"})->fingerprint(), make_word_tokenizer({"red", "green"})->fingerprint());
}

TEST(WordTokenizer, MistakesAreNamed) {
  const auto tokenizer = make_word_tokenizer({"red", "green"});
  expect_user_error([&] { tokenizer->encode("red yellow"); }, {"offset 4", "yellow"});
  expect_user_error([&] { tokenizer->encode("red  green"); }, {"offset 4", "single spaces"});
  expect_user_error([&] { tokenizer->encode("red "); }, {"offset 4"});
  expect_user_error([&] { tokenizer->encode("red\n"); }, {"offset 0"});
  expect_user_error([&] { tokenizer->decode(std::vector<int32_t>{3}); }, {"3"});
  expect_user_error([] { make_word_tokenizer({"a", "a"}); }, {"twice"});
  expect_user_error([] { make_word_tokenizer({"<pad>"}); }, {"twice"});
  expect_user_error([] { make_word_tokenizer({"a b"}); }, {"spaces"});
  expect_user_error([] { make_word_tokenizer({""}); }, {"empty"});
  expect_user_error([] { make_word_tokenizer({"\xFF"}); }, {"UTF-8"});
  expect_user_error([] { parse_tokenizer("cairn-words 2\na\n", "w.txt"); }, {"w.txt", "cairn-words 1", "cairn-words 2"});
  expect_user_error([] { parse_tokenizer("cairn-words 1\na\nb", "w.txt"); }, {"w.txt", "cut off"});
  expect_user_error([] { parse_tokenizer("cairn-words 1\na\n\nb\n", "w.txt"); }, {"w.txt", "line 3", "empty"});
  expect_user_error([] { parse_tokenizer("cairn-words 1\na\nb\nb\n", "w.txt"); }, {"w.txt", "line 4", "twice"});
}

TEST(LoadTokenizer, FilesAndNames) {
  const Scratch scratch;
  write_file(scratch / "words.txt", "cairn-words 1\nx\ny\n");
  EXPECT_EQ(load_tokenizer((scratch / "words.txt").string())->encode("y x"), (std::vector<int32_t>{2, 1}));
  write_file(scratch / "t.model", testing::small_model());
  EXPECT_EQ(load_tokenizer((scratch / "t.model").string())->fingerprint(), testing::small_tokenizer()->fingerprint());
  write_file(scratch / "empty", "");
  expect_user_error([&] { load_tokenizer((scratch / "empty").string()); }, {"empty"});
  expect_user_error([&] { load_tokenizer((scratch / "absent").string()); }, {"absent", "no such file"});
  expect_user_error([&] { load_tokenizer(scratch.path().string()); }, {"not a regular file"});
  expect_user_error([&] { load_tokenizer(""); }, {"no tokenizer"});
}

TEST(Training, SameBytesForAnyNumberOfThreads) {
  const Scratch scratch;
  write_file(scratch / "a", testing::prose_text(300'000, 1));
  write_file(scratch / "b", testing::prose_text(200'000, 2) + std::string(1, '\0') + testing::prose_text(100'000, 3));
  TokenizerTraining training;
  training.files = {scratch / "a", scratch / "b"};
  training.vocab_size = 600;
  training.threads = 1;
  const std::string one = train_sentencepiece(training);
  training.threads = 3;
  EXPECT_EQ(train_sentencepiece(training), one);
  EXPECT_EQ(parse_tokenizer(one, "one")->vocab_size(), 600);
  training.max_sample_bytes = 150'000;  // a sample: deterministic, another one for another seed
  const std::string sampled = train_sentencepiece(training);
  EXPECT_NE(sampled, one);
  EXPECT_EQ(train_sentencepiece(training), sampled);
  training.seed = 2;
  EXPECT_NE(train_sentencepiece(training), sampled);
  training.max_sample_bytes = 1;  // one block at least
  training.vocab_size = 320;
  EXPECT_EQ(parse_tokenizer(train_sentencepiece(training), "tiny sample")->vocab_size(), 320);
}

TEST(Training, AwkwardTexts) {
  const Scratch scratch;
  std::string text;  // one endless line with multi-byte characters at every block boundary, marks that the trainer reserves, tabs
  while (text.size() < 400'000)
    text += "\xC3\xA9t\xC3\xA9 \xE2\x96\x81 na\xC3\xAFve\tcaf\xC3\xA9\xE2\x96\x85 1234 \xF0\x9F\x98\x80 zebra quilt ";
  text += std::string(20'000, 'q');
  write_file(scratch / "line", text);
  TokenizerTraining training;
  training.files = {scratch / "line"};
  training.vocab_size = 310;
  for (const int64_t sample : {int64_t{50'000'000}, int64_t{130'000}}) {
    training.max_sample_bytes = sample;
    const auto tokenizer = parse_tokenizer(train_sentencepiece(training), "awkward");
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
}

TEST(Training, MistakesAreNamed) {
  const Scratch scratch;
  write_file(scratch / "empty", "");
  write_file(scratch / "blank", std::string("\n\n\0\n", 4));
  write_file(scratch / "short", "Just a few words.\n");
  write_file(scratch / "broken", testing::prose_text(100'000) + "\xC3(");
  const auto train = [](std::vector<fs::path> files, int64_t vocab = 400) {
    TokenizerTraining training;
    training.files = std::move(files);
    training.vocab_size = vocab;
    return train_sentencepiece(training);
  };
  expect_user_error([&] { train({}); }, {"no text files"});
  expect_user_error([&] { train({scratch / "absent"}); }, {"absent", "no such file"});
  expect_user_error([&] { train({scratch.path()}); }, {"not a regular file"});
  expect_user_error([&] { train({"-"}); }, {"standard input"});
  expect_user_error([&] { train({scratch / "empty"}); }, {"empty", "no text"});
  expect_user_error([&] { train({scratch / "blank"}); }, {"no text"});
  expect_user_error([&] { train({scratch / "broken"}); }, {"broken", "UTF-8", "100000"});
  expect_user_error([&] { train({scratch / "short"}, 4096); }, {"Vocabulary size too high", "value <="});
  expect_user_error([&] { train({scratch / "short"}, 100); }, {"100", "300"});
}

}  // namespace
}  // namespace cairn
