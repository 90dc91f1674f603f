#include "cairn/text/token_source.h"

#include <chrono>
#include <unordered_set>

#include "cairn/text/shards.h"
#include "text_fixture.h"

namespace cairn {
namespace {

using testing::expect_user_error;
using testing::Scratch;
using testing::small_tokenizer;

std::vector<int32_t> take(const TokenSource& source, int64_t begin, int64_t count) {
  std::vector<int32_t> ids(count);
  source.read(begin, ids);
  return ids;
}

// Any window equals the same window of a longer read.
void expect_random_access(const TokenSource& source, int64_t begin, int64_t length) {
  const auto whole = take(source, begin, length);
  Random random(5, static_cast<uint64_t>(begin));
  for (int i = 0; i < 200; ++i) {
    const int64_t at = random.below(length), count = random.below(std::min<int64_t>(length - at, 5000) + 1);
    ASSERT_EQ(take(source, begin + at, count), std::vector<int32_t>(whole.begin() + at, whole.begin() + at + count));
  }
}

TEST(TokenSource, Memory) {
  const auto source = make_memory_source({5, 6, 7}, "three");
  EXPECT_EQ(source->size(), 3);
  EXPECT_EQ(source->name(), "three");
  EXPECT_EQ(take(*source, 1, 2), (std::vector<int32_t>{6, 7}));
  EXPECT_TRUE(take(*source, 3, 0).empty());
}

TEST(TokenSource, NoiseIsTheLineRepeated) {
  const std::string line = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n";
  for (const auto& tokenizer : {small_tokenizer(), make_bytes_tokenizer()}) {
    const auto source = make_noise_source(tokenizer);
    EXPECT_EQ(source->size(), TokenSource::kUnlimited);
    const auto expected = tokenizer->encode(line + line + line);
    EXPECT_EQ(take(*source, 0, static_cast<int64_t>(expected.size())), expected);
    expect_random_access(*source, (int64_t{1} << 40) + 3, 3000);
  }
}

TEST(TokenSource, ProseIsAPureFunctionOfSeedAndPosition) {
  for (const auto& tokenizer : {small_tokenizer(), make_bytes_tokenizer()}) {
    const auto source = make_prose_source(tokenizer, 7);
    expect_random_access(*source, 0, 20'000);
    expect_random_access(*source, (int64_t{1} << 45) + 123, 20'000);
    EXPECT_EQ(take(*source, 5000, 5000), take(*make_prose_source(tokenizer, 7), 5000, 5000));
    EXPECT_NE(take(*source, 5000, 5000), take(*make_prose_source(tokenizer, 8), 5000, 5000));
    // Two sources on one thread must not mix up their blocks.
    const auto other = make_prose_source(tokenizer, 8);
    const auto first = take(*source, 10, 20), second = take(*other, 10, 20);
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(take(*source, 10, 20), first);
      EXPECT_EQ(take(*other, 10, 20), second);
    }
  }
}

// What a model is asked to read is tokenized as any other text is.
TEST(TokenSource, ProseTokensAreTheEncodingOfTheirText) {
  const auto tokenizer = small_tokenizer();
  const auto source = make_prose_source(tokenizer, 3);
  const auto ids = take(*source, 0, 100 * 2048);
  const std::string text = tokenizer->decode(ids);
  EXPECT_EQ(tokenizer->encode(text), ids);
  EXPECT_EQ(text.find('$'), std::string::npos);
  EXPECT_EQ(text.find('|'), std::string::npos);
  EXPECT_EQ(text.find("  "), std::string::npos);
  EXPECT_EQ(text.find(" ,"), std::string::npos);
  EXPECT_EQ(text.find(" ."), std::string::npos);
  int64_t line_ends = 0;
  for (const char c : text) line_ends += c == '\n';
  EXPECT_LT(line_ends, static_cast<int64_t>(text.size()) / 50);  // little filling
}

TEST(TokenSource, ProseDoesNotRepeat) {
  constexpr int64_t kTokens = 3'000'000, kWindow = 48;
  const auto ids = take(*make_prose_source(small_tokenizer(), 1), 0, kTokens);
  std::unordered_set<uint64_t> windows;
  windows.reserve(kTokens / 8);
  for (int64_t at = 0; at + kWindow <= kTokens; at += 16) {
    const bool fresh = windows.insert(hash_bytes({reinterpret_cast<const char*>(ids.data() + at), kWindow * 4})).second;
    ASSERT_TRUE(fresh) << "tokens " << at << ": " << small_tokenizer()->decode(std::span(ids).subspan(at, kWindow));
  }
}

TEST(TokenSource, ProseIsFast) {
  const auto source = make_prose_source(small_tokenizer(), 1);
  std::vector<int32_t> ids(4'000'000);
  source->read(0, std::span(ids).first(100'000));
  const std::clock_t start = std::clock();  // processor time: other work on the machine does not count
  source->read(0, ids);
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  RecordProperty("million_tokens_per_second", std::to_string(4.0 / seconds));
#ifdef NDEBUG
  EXPECT_GT(4.0 / seconds, 5.0);
#endif
}

TEST(TokenSource, ShardSourceSeparatesDocuments) {
  const Scratch scratch;
  const auto tokenizer = small_tokenizer();
  Random random(5, 1);
  std::string text;
  std::vector<int32_t> expected;
  const auto gap = tokenizer->encode("\n\n");
  for (int i = 0; i < 300; ++i) {
    std::string document = testing::prose_text(1 + random.below(400), random.next());
    if (i > 0) text += '\0', expected.insert(expected.end(), gap.begin(), gap.end());
    text += document;
    const auto ids = tokenizer->encode(document);
    expected.insert(expected.end(), ids.begin(), ids.end());
  }
  write_file(scratch / "text", text);
  ShardWriting writing;
  writing.files = {scratch / "text"};
  writing.output = scratch / "t.shard";
  writing.show_progress = false;
  write_shard(*tokenizer, writing);
  const auto source = open_token_source((scratch / "t.shard").string(), tokenizer);
  ASSERT_EQ(source->size(), static_cast<int64_t>(expected.size()));
  EXPECT_EQ(source->name(), "t.shard");
  EXPECT_EQ(take(*source, 0, source->size()), expected);
  expect_random_access(*source, 0, source->size());
  for (int64_t at = 0; at < 2000; ++at) ASSERT_EQ(take(*source, at, 1)[0], expected[at]);
  EXPECT_TRUE(take(*source, source->size(), 0).empty());
  // The same documents straight from the text file.
  const auto direct = open_token_source((scratch / "text").string(), tokenizer);
  EXPECT_EQ(take(*direct, 0, direct->size()), expected);
}

TEST(TokenSource, OpenByName) {
  const Scratch scratch;
  const auto tokenizer = small_tokenizer();
  EXPECT_EQ(open_token_source("noise", tokenizer)->name(), "noise");
  EXPECT_EQ(open_token_source("prose", tokenizer)->name(), "prose:1");
  EXPECT_EQ(open_token_source("prose:18446744073709551615", tokenizer)->name(), "prose:18446744073709551615");
  const auto attempt = [&](const std::string& name, const std::vector<std::string>& parts) {
    expect_user_error([&] { open_token_source(name, tokenizer); }, parts);
  };
  for (const char* name : {"prose:", "prose:x", "prose:1x", "prose:-1", "prose:18446744073709551616"}) attempt(name, {name, "seed"});
  attempt("nois", {"nois", "no such file", "prose:SEED"});
  attempt(scratch.path().string(), {"not a regular file"});
  write_file(scratch / "empty.txt", "");
  write_file(scratch / "latin.txt", "caf\xE9");
  write_file(scratch / "x.txt.bz2", "BZh9");
  write_file(scratch / "broken.shard", "CAIRNTOK");
  attempt((scratch / "empty.txt").string(), {"empty.txt", "no text"});
  attempt((scratch / "latin.txt").string(), {"latin.txt", "offset 3"});
  attempt((scratch / "x.txt.bz2").string(), {"compressed", "bzcat"});
  attempt((scratch / "broken.shard").string(), {"broken.shard", "header"});
  const auto words = make_word_tokenizer({"a", "b"});
  expect_user_error([&] { open_token_source("noise", words); }, {"word list"});
  expect_user_error([&] { open_token_source("prose", words); }, {"word list"});
  write_file(scratch / "words.txt", "a b" + std::string(1, '\0') + "b");
  const auto source = open_token_source((scratch / "words.txt").string(), words);
  EXPECT_EQ(take(*source, 0, source->size()), (std::vector<int32_t>{1, 2, 2}));
}

}  // namespace
}  // namespace cairn
