// The contract of the trained tokenizer, and the cache against plain SentencePiece.
#include <rapidcheck.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <thread>

#include "cairn/text/utf8.h"
#include "text_fixture.h"

namespace cairn {
namespace {

using testing::expect_user_error;
using testing::small_model;
using testing::small_tokenizer;
using testing::wild_text;

class Lines : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(std::vector<std::string> lines) : lines_(std::move(lines)) {}
  bool done() const override { return at_ == lines_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return lines_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::vector<std::string> lines_;
  size_t at_ = 0;
};

// A model with other options than ours.
std::string train_with(std::unordered_map<std::string, std::string> changes) {
  std::unordered_map<std::string, std::string> options = {{"model_type", "bpe"},
                                                          {"vocab_size", "500"},
                                                          {"normalization_rule_name", "identity"},
                                                          {"add_dummy_prefix", "false"},
                                                          {"remove_extra_whitespaces", "false"},
                                                          {"byte_fallback", "true"},
                                                          {"pad_id", "0"},
                                                          {"unk_id", "1"},
                                                          {"bos_id", "-1"},
                                                          {"eos_id", "-1"},
                                                          {"minloglevel", "2"}};
  for (const auto& [name, value] : changes) options[name] = value;
  std::vector<std::string> lines;
  const std::string text = testing::prose_text(100'000, 3);
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    if (end > at) lines.push_back("   " + text.substr(at, end - at) + "  12  345");
    at = end + 1;
  }
  Lines iterator(lines);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &iterator, &model);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return model;
}

// Plain SentencePiece on the whole text.
class Plain {
 public:
  explicit Plain(const std::string& model) { EXPECT_TRUE(library_.LoadFromSerializedProto(model).ok()); }
  std::vector<int32_t> encode(const std::string& text) const {
    std::vector<int> ids;
    EXPECT_TRUE(library_.Encode(text, &ids).ok());
    return ids;
  }
  const sentencepiece::SentencePieceProcessor& library() const { return library_; }

 private:
  sentencepiece::SentencePieceProcessor library_;
};

TEST(SentencePiece, EveryTextComesBack) {
  const auto tokenizer = small_tokenizer();
  EXPECT_EQ(tokenizer->encode("").size(), 0u);
  EXPECT_EQ(tokenizer->decode({}), "");
  Random random(2, 1);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = wild_text(&random, random.below(40));
    ASSERT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
}

TEST(SentencePiece, EveryTextComesBackProperty) {
  const auto tokenizer = small_tokenizer();
  const auto character = rc::gen::map(
      rc::gen::oneOf(rc::gen::inRange<uint32_t>(0, 0x80), rc::gen::inRange<uint32_t>(0x80, 0x3000),
                     rc::gen::element<uint32_t>(0x2581, 0x2585, 0x20, 0x09, 0x0A, 0x30, 0xFFFD), rc::gen::inRange<uint32_t>(0, 0x110000)),
      [](uint32_t c) { return c >= 0xD800 && c < 0xE000 ? uint32_t{0x2581} : c; });
  EXPECT_TRUE(rc::check("decode(encode(x)) == x", [&] {
    std::string text;
    for (const uint32_t c : *rc::gen::container<std::vector<uint32_t>>(character)) testing::append_utf8(c, &text);
    RC_ASSERT(tokenizer->decode(tokenizer->encode(text)) == text);
  }));
}

TEST(SentencePiece, EveryCharacterComesBack) {
  const auto tokenizer = small_tokenizer();
  std::string all;
  for (char32_t c = 0; c < 0x110000; c += c < 0x3100 ? 1 : 17)
    if (c < 0xD800 || c >= 0xE000) testing::append_utf8(c, &all);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(all)), all);
}

TEST(SentencePiece, CacheEqualsPlainLibrary) {
  const Plain plain(small_model());
  const auto tokenizer = parse_tokenizer(small_model(), "fresh");
  Random random(2, 2);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = wild_text(&random, random.below(60), false);
    ASSERT_EQ(tokenizer->encode(text), plain.encode(text)) << text;
  }
  const std::string prose = testing::prose_text(300'000, 77);
  EXPECT_EQ(tokenizer->encode(prose), plain.encode(prose));
  EXPECT_EQ(tokenizer->encode(prose), plain.encode(prose));  // now all from the cache
}

// The cuts come from the vocabulary, so they hold for pieces that cross spaces, digits, scripts, and for user-defined pieces.
TEST(SentencePiece, CacheEqualsPlainLibraryForOtherModels) {
  const std::unordered_map<std::string, std::string> variants[] = {
      {{"split_by_whitespace", "false"}, {"vocab_size", "800"}},
      {{"split_by_unicode_script", "false"}, {"split_by_number", "false"}, {"vocab_size", "800"}},
      {{"allow_whitespace_only_pieces", "true"}},
      {{"user_defined_symbols", "ab,  ,the cat,\xE2\x96\x81\xE2\x96\x81,<x>,aba"}, {"allow_whitespace_only_pieces", "true"}},
      {{"treat_whitespace_as_suffix", "true"}},
      {{"max_sentencepiece_length", "3"}},
  };
  Random random(2, 3);
  for (const auto& variant : variants) {
    const std::string model = train_with(variant);
    const Plain plain(model);
    const auto tokenizer = parse_tokenizer(model, "variant");
    for (int i = 0; i < 400; ++i) {
      std::string text = wild_text(&random, random.below(60), false);
      for (const char* word : {"abab", "the cat", "<x>", "    "})
        if (random.chance(0.5)) text.insert(random.chance(0.5) ? 0 : text.size(), word);
      ASSERT_EQ(tokenizer->encode(text), plain.encode(text)) << variant.begin()->first << ": " << text;
      ASSERT_EQ(tokenizer->decode(tokenizer->encode(text)), text) << variant.begin()->first;
    }
  }
}

TEST(SentencePiece, LiteralSpaceMarkIsNotASpace) {
  const auto tokenizer = small_tokenizer();
  EXPECT_EQ(tokenizer->encode("\xE2\x96\x81").size(), 3u);
  EXPECT_NE(tokenizer->encode("the\xE2\x96\x81the"), tokenizer->encode("the the"));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("the\xE2\x96\x81the")), "the\xE2\x96\x81the");
}

TEST(SentencePiece, DigitsAndLineEndsStandAlone) {
  const auto tokenizer = small_tokenizer();
  EXPECT_EQ(tokenizer->encode("1234567").size(), 7u);
  for (const int32_t id : tokenizer->encode("907 1122")) EXPECT_EQ(tokenizer->decode_one(id).size(), 1u);
  EXPECT_EQ(tokenizer->encode("\n\n").size(), 2u);
  EXPECT_EQ(tokenizer->decode_one(tokenizer->pad_id()), "");
  for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {  // no piece crosses a space
    const std::string piece = tokenizer->decode_one(id);
    EXPECT_TRUE(piece.size() < 2 || piece.find(' ', 1) == std::string::npos) << piece;
  }
}

TEST(SentencePiece, DecodingIsAdditive) {
  const auto tokenizer = small_tokenizer();
  Random random(2, 4);
  for (int i = 0; i < 200; ++i) {
    const auto ids = tokenizer->encode(wild_text(&random, 30));
    std::string pieces;
    for (const int32_t id : ids) pieces += tokenizer->decode_one(id);
    ASSERT_EQ(pieces, tokenizer->decode(ids));
  }
}

TEST(SentencePiece, CutsAreExact) {
  Random random(2, 5);
  for (const auto& tokenizer :
       {small_tokenizer(), make_bytes_tokenizer(), parse_tokenizer(train_with({{"split_by_whitespace", "false"}}), "variant")}) {
    int cuts = 0;
    for (int i = 0; i < 500; ++i) {
      const std::string text = wild_text(&random, 20);
      const int64_t position = random.below(static_cast<int64_t>(text.size()) + 1);
      const int64_t cut = tokenizer->cut_before(text, position);
      ASSERT_GE(cut, 0);
      ASSERT_LE(cut, position);
      auto parts = tokenizer->encode(std::string_view(text).substr(0, cut));
      const auto rest = tokenizer->encode(std::string_view(text).substr(cut));
      parts.insert(parts.end(), rest.begin(), rest.end());
      ASSERT_EQ(parts, tokenizer->encode(text));
      cuts += cut > 0;
    }
    EXPECT_GT(cuts, 300);
  }
}

TEST(SentencePiece, ParallelEqualsSerial) {
  Random random(2, 6);
  std::string text = testing::prose_text(700'000, 21);
  for (int i = 0; i < 3000; ++i) text += wild_text(&random, 30);
  text += std::string(400'000, 'a') + testing::prose_text(300'000, 22);  // a stretch with few places for a cut
  for (const auto& tokenizer : {small_tokenizer(), make_bytes_tokenizer()}) {
    const auto whole = tokenizer->encode(text);
    for (const int threads : {1, 2, 3, 7, 0}) ASSERT_EQ(encode_parallel(*tokenizer, text, threads), whole) << threads;
  }
  text[650'000] = '\xFF';
  expect_user_error([&] { encode_parallel(*small_tokenizer(), text, 2); }, {"UTF-8", "650000"});
}

TEST(SentencePiece, ThreadsShareOneCache) {
  const auto tokenizer = parse_tokenizer(small_model(), "fresh");
  const std::string text = testing::prose_text(200'000, 9);
  const auto expected = small_tokenizer()->encode(text);
  std::vector<std::vector<int32_t>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) threads.emplace_back([&] { result = tokenizer->encode(text); });
  for (auto& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

// More different words than the cache holds: forgotten, not confused.
TEST(SentencePiece, FullCacheStaysRight) {
  const Plain plain(small_model());
  const auto tokenizer = parse_tokenizer(small_model(), "fresh");
  std::string text;
  Random random(2, 7);
  for (int i = 0; i < 200'000; ++i) {
    text += ' ';
    for (int j = 0; j < 5; ++j) text += static_cast<char>('a' + random.below(26));
  }
  EXPECT_EQ(tokenizer->encode(text), plain.encode(text));
  EXPECT_EQ(tokenizer->encode(text), plain.encode(text));
}

TEST(SentencePiece, MistakesAreNamed) {
  const auto tokenizer = small_tokenizer();
  expect_user_error([&] { tokenizer->encode("abc\xC3(def"); }, {"UTF-8", "offset 3"});
  expect_user_error([&] { tokenizer->encode("\xED\xA0\x80"); }, {"offset 0"});
  const std::vector<int32_t> bad[] = {{-1}, {tokenizer->vocab_size()}, {5, 1 << 30}};
  for (const auto& ids : bad) expect_user_error([&] { tokenizer->decode(ids); }, {"outside the vocabulary", "700"});
}

TEST(SentencePiece, ModelsThatBreakTheContractAreRefused) {
  const std::pair<std::unordered_map<std::string, std::string>, const char*> cases[] = {
      {{{"add_dummy_prefix", "true"}}, "add_dummy_prefix"},  {{{"remove_extra_whitespaces", "true"}}, "remove_extra_whitespaces"},
      {{{"byte_fallback", "false"}}, "byte fallback"},       {{{"model_type", "unigram"}}, "BPE"},
      {{{"normalization_rule_name", "nfkc"}}, "normalises"}, {{{"pad_id", "-1"}, {"unk_id", "0"}}, "pad"},
  };
  for (const auto& [changes, word] : cases) {
    const std::string model = train_with(changes);
    expect_user_error([&] { parse_tokenizer(model, "odd.model"); }, {"odd.model", word});
  }
}

TEST(SentencePiece, SerializedFormLoadsTheSame) {
  const auto tokenizer = small_tokenizer();
  const auto again = parse_tokenizer(tokenizer->serialized(), "again");
  EXPECT_EQ(again->fingerprint(), tokenizer->fingerprint());
  EXPECT_EQ(again->fingerprint().size(), 16u);
  EXPECT_EQ(again->kind(), "sentencepiece");
  EXPECT_NE(make_bytes_tokenizer()->fingerprint(), tokenizer->fingerprint());
  // An official reader understands the file.
  const Plain plain(tokenizer->serialized());
  EXPECT_EQ(plain.library().GetPieceSize(), tokenizer->vocab_size());
  EXPECT_EQ(plain.library().pad_id(), 0);
}

// Hostile files: an error message or a tokenizer that still keeps its contract, never a crash.
TEST(SentencePiece, CorruptedFiles) {
  const std::string& model = small_model();
  const std::string sample = "The old baker, 12 \xE2\x96\x81\n";
  const auto attempt = [&](const std::string& bytes) {
    try {
      const auto tokenizer = parse_tokenizer(bytes, "hostile");
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(sample)), sample);
      return true;
    } catch (const UserError&) {
      return false;
    }
  };
  Random random(2, 8);
  for (int i = 0; i < 60; ++i) attempt(model.substr(0, random.below(static_cast<int64_t>(model.size()))));
  for (int i = 0; i < 400; ++i) {
    std::string bytes = model;
    const bool front = random.chance(0.5);
    for (int64_t flips = 1 + random.below(3); flips > 0; --flips)
      bytes[random.below(front ? 200 : static_cast<int64_t>(bytes.size()))] ^= static_cast<char>(1 << random.below(8));
    attempt(bytes);
  }
  for (int i = 0; i < 100; ++i) {
    std::string bytes;
    for (int64_t n = random.below(200); n > 0; --n) bytes += static_cast<char>(random.below(256));
    EXPECT_FALSE(attempt(bytes));
  }
  // A length of 2^60 bytes, an endless number, the two pieces of the same name, a score that is no number.
  for (const std::string& bytes : {std::string("\x0A\x80\x80\x80\x80\x80\x80\x80\x80\x10"), std::string(20, '\xFF'),
                                   std::string("\x0A\x03\x0A\x01"
                                               "a\x0A\x03\x0A\x01"
                                               "a"),
                                   std::string("\x0A\x08\x0A\x01"
                                               "a\x15\x00\x00\xC0\x7F",
                                               10),
                                   std::string("\x08\x01"), std::string("PK\x03\x04")})
    EXPECT_FALSE(attempt(bytes));
  EXPECT_FALSE(attempt(model + model));  // every piece twice
}

}  // namespace
}  // namespace cairn
