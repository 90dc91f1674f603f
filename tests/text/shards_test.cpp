#include "cairn/text/shards.h"

#include <cstring>
#include <fstream>

#include "cairn/text/shard_format.h"
#include "text_fixture.h"

namespace cairn {
namespace {

using testing::expect_user_error;
using testing::Scratch;
using testing::small_tokenizer;

const std::string kNul(1, '\0');

fs::path write(const Scratch& scratch, const Tokenizer& tokenizer, const std::vector<std::string>& texts, int threads = 2) {
  ShardWriting writing;
  for (size_t i = 0; i < texts.size(); ++i) {
    writing.files.push_back(scratch / ("text" + std::to_string(i)));
    write_file(writing.files.back(), texts[i]);
  }
  writing.output = scratch / "out.shard";
  writing.threads = threads;
  writing.show_progress = false;
  const int64_t tokens = write_shard(tokenizer, writing);
  EXPECT_EQ(tokens, TokenShard(writing.output).tokens());
  return writing.output;
}

std::vector<int32_t> tokens_of(const TokenShard& shard, int64_t document) {
  std::vector<int32_t> ids(shard.document_begin(document + 1) - shard.document_begin(document));
  shard.read(shard.document_begin(document), ids);
  return ids;
}

TEST(Shards, DocumentsComeBack) {
  const Scratch scratch;
  const std::string a = "The first document.", b = "\xE2\x96\x81 second\n\n", c = "third\xC3\xA9", d = "4";
  for (const auto& tokenizer : {small_tokenizer(), make_bytes_tokenizer()}) {
    // Empty documents (NULs in a row, at the ends, an empty file) leave no trace.
    const TokenShard shard(write(scratch, *tokenizer, {kNul + a + kNul + kNul + b + kNul, "", c, d + kNul}));
    ASSERT_EQ(shard.documents(), 4);
    int64_t bytes = 0;
    for (int64_t i = 0; i < 4; ++i) {
      const std::string text = std::array{a, b, c, d}[i];
      EXPECT_EQ(tokens_of(shard, i), tokenizer->encode(text));
      EXPECT_EQ(shard.document_begin_byte(i), bytes);
      bytes += static_cast<int64_t>(text.size());
      EXPECT_EQ(shard.document_of(shard.document_begin(i)), i);
      EXPECT_EQ(shard.document_of(shard.document_begin(i + 1) - 1), i);
    }
    EXPECT_EQ(shard.text_bytes(), bytes);
    EXPECT_EQ(shard.document_begin(4), shard.tokens());
    EXPECT_EQ(shard.tokenizer_fingerprint(), tokenizer->fingerprint());
    EXPECT_EQ(shard.vocab_size(), tokenizer->vocab_size());
    shard.verify();
  }
}

// Texts much longer than a round of the writer: cuts between rounds and parts change nothing, nor does the number of threads.
TEST(Shards, LongTextsAreCutExactly) {
  const Scratch scratch;
  Random random(4, 1);
  std::string text;
  while (text.size() < 10'000'000) {
    text += testing::prose_text(800'000, random.next());
    for (int i = 0; i < 200; ++i) text += testing::wild_text(&random, 20);
    text += "\xF0\x9F\x98\x80\xE6\x97\xA5\xE6\x9C\xAC";
  }
  const auto tokenizer = small_tokenizer();
  std::string whole_file;
  for (const int threads : {1, 3}) {
    const fs::path path = write(scratch, *tokenizer, {text}, threads);
    const std::string bytes = read_file(path);
    EXPECT_TRUE(whole_file.empty() || whole_file == bytes);
    whole_file = bytes;
  }
  const TokenShard shard(scratch / "out.shard");
  int64_t document = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\0', at), text.size());
    if (end > at) {
      const auto expected = tokenizer->encode(std::string_view(text).substr(at, end - at));
      ASSERT_EQ(tokens_of(shard, document++), expected);
    }
    at = end + 1;
  }
  EXPECT_EQ(document, shard.documents());
}

TEST(Shards, WideTokens) {
  std::vector<std::string> words;
  for (int i = 0; i < 70'000; ++i) words.push_back("w" + std::to_string(i));
  const auto tokenizer = make_word_tokenizer(words);
  const Scratch scratch;
  const TokenShard shard(write(scratch, *tokenizer, {"w69999 w0 w65535 w65536" + kNul + "w1"}));
  EXPECT_EQ(tokens_of(shard, 0), (std::vector<int32_t>{70'000, 1, 65'536, 65'537}));
  EXPECT_EQ(tokens_of(shard, 1), (std::vector<int32_t>{2}));
  shard.verify();
}

TEST(Shards, WritingMistakesAreNamedAndLeaveNothing) {
  const Scratch scratch;
  const auto tokenizer = make_bytes_tokenizer();
  ShardWriting writing;
  writing.output = scratch / "new.shard";
  writing.show_progress = false;
  const auto attempt = [&](std::vector<fs::path> files, const std::vector<std::string>& parts) {
    writing.files = std::move(files);
    expect_user_error([&] { write_shard(*tokenizer, writing); }, parts);
    EXPECT_FALSE(fs::exists(writing.output));
  };
  write_file(scratch / "good", "good text");
  write_file(scratch / "empty", "");
  write_file(scratch / "nuls", kNul + kNul);
  write_file(scratch / "latin", "caf\xE9 noir");
  write_file(scratch / "cut", "caf\xC3");
  // A mistake behind the first round, and a character across the rounds' border that is no mistake.
  std::string late(9'000'000, 'x');
  late.replace((8 << 20) - 1, 2, "\xC3\xA9");
  late[8'900'000] = '\x80';
  write_file(scratch / "late", late);
  attempt({}, {"no text files"});
  attempt({scratch / "absent"}, {"absent", "no such file"});
  attempt({scratch.path()}, {"folder"});
  attempt({scratch / "empty"}, {"no text"});
  attempt({scratch / "nuls", scratch / "empty"}, {"no text"});
  attempt({scratch / "good", scratch / "latin"}, {"latin", "offset 3", "UTF-8"});
  attempt({scratch / "cut"}, {"cut", "offset 3"});
  attempt({scratch / "late"}, {"late", "8900000"});
  attempt({"-", "-"}, {"only once"});
  for (const auto& entry : fs::directory_iterator(scratch.path()))
    EXPECT_EQ(entry.path().string().find("new.shard"), std::string::npos) << entry.path();
}

class HostileShard : public ::testing::Test {
 protected:
  void SetUp() override {
    good_ = read_file(
        write(scratch_, *small_tokenizer(), {"One small document." + kNul + "Another one, a little longer than the first.", "third"}));
  }
  // Opens, verifies and reads everything.
  void open(const std::string& bytes) const {
    std::ofstream(scratch_ / "bad.shard", std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    const TokenShard shard(scratch_ / "bad.shard");
    shard.verify();
    std::vector<int32_t> ids(shard.tokens());
    shard.read(0, ids);
  }
  void refuse(const std::string& bytes, std::vector<std::string> parts = {}) const {
    parts.push_back("bad.shard");
    expect_user_error([&] { open(bytes); }, parts);
  }
  // `good_` with a changed header and checksums that agree.
  std::string forge(const std::function<void(ShardHeader*)>& change) const {
    std::string bytes = good_;
    ShardHeader header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    change(&header);
    std::memcpy(bytes.data(), &header, sizeof(header));
    header.header_checksum = hash_bytes(std::string_view(bytes).substr(0, offsetof(ShardHeader, header_checksum)));
    std::memcpy(bytes.data(), &header, sizeof(header));
    return bytes;
  }
  Scratch scratch_;
  std::string good_;
};

TEST_F(HostileShard, TruncatedAnywhere) {
  open(good_);
  for (size_t size = 0; size < good_.size(); ++size) refuse(good_.substr(0, size));
  refuse(good_ + "x", {"corrupted"});
  refuse(good_ + std::string(16, '\0'), {"corrupted"});
  refuse("", {"not a token shard"});
  refuse("a text file, really", {"not a token shard"});
}

TEST_F(HostileShard, EveryFlippedBitIsNoticed) {
  for (size_t at = 0; at < good_.size(); ++at) {
    std::string bytes = good_;
    bytes[at] ^= static_cast<char>(1 << at % 8);
    refuse(bytes);
  }
}

TEST_F(HostileShard, ForgedHeaders) {
  refuse(forge([](ShardHeader* h) { h->version = 2; }), {"version 2", "version 1"});
  refuse(forge([](ShardHeader* h) { h->version = 0; }), {"version 0"});
  for (const uint32_t width : {0u, 1u, 3u, 8u, ~0u}) refuse(forge([&](ShardHeader* h) { h->width = width; }), {"bytes a token"});
  refuse(forge([](ShardHeader* h) { h->width = 4; }));
  for (const uint64_t huge :
       {~uint64_t{0}, uint64_t{1} << 63, uint64_t{1} << 62, (uint64_t{1} << 63) + 64, uint64_t{1} << 32, uint64_t{100'000}}) {
    refuse(forge([&](ShardHeader* h) { h->tokens = huge; }), {"tokens"});
    refuse(forge([&](ShardHeader* h) { h->documents = huge; }), {"documents"});
    refuse(forge([&](ShardHeader* h) { h->tokens_offset = huge; }), {"offset"});
    refuse(forge([&](ShardHeader* h) { h->table_offset = huge; }), {"table"});
    refuse(forge([&](ShardHeader* h) { h->text_bytes = huge; }), {"table"});
    // Numbers that agree with each other modulo 2^64.
    refuse(forge([&](ShardHeader* h) { h->tokens = huge, h->table_offset = (h->tokens_offset + huge * h->width + 7) / 8 * 8; }));
  }
  refuse(forge([](ShardHeader* h) { --h->tokens; }));
  refuse(forge([](ShardHeader* h) { h->vocab_size = 0; }), {"vocabulary"});
  refuse(forge([](ShardHeader* h) { h->vocab_size = 70'000; }), {"vocabulary"});
  refuse(forge([](ShardHeader* h) { h->fingerprint[3] = '\n'; }), {"fingerprint"});
  // Right in itself, but the tokens are not below the vocabulary: found when they are read.
  refuse(forge([](ShardHeader* h) { h->vocab_size = 10; }), {"outside the vocabulary of 10"});
}

TEST_F(HostileShard, ForgedTables) {
  const auto forge_row = [&](int64_t row, ShardRow value) {
    std::string bytes = good_;
    ShardHeader header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    std::memcpy(bytes.data() + header.table_offset + row * sizeof(ShardRow), &value, sizeof(value));
    const uint64_t checksum = hash_bytes(std::string_view(bytes).substr(header.table_offset));
    good_.swap(bytes);
    std::string forged = forge([&](ShardHeader* h) { h->table_checksum = checksum; });
    good_.swap(bytes);
    return forged;
  };
  refuse(forge_row(0, {1, 0}), {"document 0"});
  refuse(forge_row(1, {uint64_t{1} << 40, 19}), {"document 2"});
  refuse(forge_row(1, {~uint64_t{0}, 19}), {"document 2"});
  refuse(forge_row(2, {0, 0}), {"document 2"});
  refuse(forge_row(3, {1'000'000, 1'000'000}), {"last token"});
  // 2^63 bytes of text, header and table agreeing (a fuzzer's finding): no negative places.
  ShardHeader header;
  std::memcpy(&header, good_.data(), sizeof(header));
  good_ = forge([](ShardHeader* h) { h->text_bytes += uint64_t{1} << 63; });
  refuse(forge_row(static_cast<int64_t>(header.documents), {header.tokens, header.text_bytes + (uint64_t{1} << 63)}), {"bytes of text"});
}

TEST_F(HostileShard, AnotherTokenizer) {
  write_file(scratch_ / "bad.shard", good_);
  open_shard_source(scratch_ / "bad.shard", *small_tokenizer());
  expect_user_error([&] { open_shard_source(scratch_ / "bad.shard", *make_bytes_tokenizer()); }, {"bad.shard", "another tokenizer"});
  expect_user_error([&] { TokenShard(scratch_ / "absent.shard"); }, {"absent.shard", "no such file"});
  expect_user_error([&] { TokenShard{scratch_.path()}; }, {"not a regular file"});
}

}  // namespace
}  // namespace cairn
