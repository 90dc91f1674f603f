// What the tests of the text room share: a small trained tokenizer, random texts, a scratch folder.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/core/random.h"
#include "cairn/text/token_source.h"
#include "cairn/text/tokenizer.h"

namespace cairn::testing {

class Scratch {
 public:
  Scratch() : path_(fs::temp_directory_path() / ("cairn-text-" + std::to_string(::getpid()) + "-" + std::to_string(counter()++))) {
    fs::create_directories(path_);
  }
  ~Scratch() { fs::remove_all(path_); }
  fs::path operator/(const std::string& name) const { return path_ / name; }
  const fs::path& path() const { return path_; }

 private:
  static int& counter() {
    static int value = 0;
    return value;
  }
  fs::path path_;
};

// `bytes` bytes of generated prose.
inline std::string prose_text(int64_t bytes, uint64_t seed = 11) {
  const auto tokenizer = make_bytes_tokenizer();
  std::vector<int32_t> ids(bytes);
  make_prose_source(tokenizer, seed)->read(0, ids);
  return tokenizer->decode(ids);
}

// A 700-piece model trained once on generated prose.
inline const std::string& small_model() {
  static const std::string model = [] {
    const Scratch scratch;
    write_file(scratch / "text", prose_text(400'000) + "\nx = [y + 1] # 1234567 \xC3\xA9t\xC3\xA9 \xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E\n");
    TokenizerTraining training;
    training.files = {scratch / "text"};
    training.vocab_size = 700;
    return train_sentencepiece(training);
  }();
  return model;
}

inline std::shared_ptr<const Tokenizer> small_tokenizer() {
  static const auto tokenizer = parse_tokenizer(small_model(), "small model");
  return tokenizer;
}

inline void append_utf8(char32_t c, std::string* text) {
  const auto put = [&](char32_t byte) { *text += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  }
}

// Valid UTF-8 with everything that could go wrong: words, runs of whitespace, controls, NUL, digits, SentencePiece's marks, any character.
inline std::string wild_text(Random* random, int64_t atoms, bool with_space_mark = true) {
  static const std::string prose = prose_text(20'000, 5);
  static const std::string specials[] = {" ",
                                         "  ",
                                         "     ",
                                         "\n",
                                         "\n\n",
                                         "\t",
                                         "\r\n",
                                         std::string(1, '\0'),
                                         "0",
                                         "12",
                                         "2026",
                                         "<pad>",
                                         "<unk>",
                                         "<0x0A>",
                                         "\xE2\x96\x85",
                                         "\xC2\xA0",
                                         "\xE3\x80\x80",
                                         "'s",
                                         ",",
                                         ".",
                                         "\"",
                                         "...",
                                         "a",
                                         "the",
                                         " the",
                                         "\x7F",
                                         "\x01",
                                         "THE",
                                         "\xEF\xBB\xBF"};
  std::string text;
  for (int64_t i = 0; i < atoms; ++i) {
    const int64_t kind = random->below(10);
    if (kind < 4) {
      text += specials[random->below(std::size(specials))];
    } else if (kind < 7) {
      text += prose.substr(random->below(static_cast<int64_t>(prose.size()) - 30), random->below(30));
    } else if (kind < 8 && with_space_mark) {
      text += "\xE2\x96\x81";
    } else {
      const char32_t limit = kind == 8 ? 0x3000 : 0x110000;
      char32_t c = static_cast<char32_t>(random->below(limit));
      if ((c >= 0xD800 && c < 0xE000) || (c == 0x2581 && !with_space_mark)) c = 0x41;
      append_utf8(c, &text);
    }
  }
  return text;
}

// Runs `action`, which must throw a UserError whose message holds all of `parts`.
inline void expect_user_error(const std::function<void()>& action, const std::vector<std::string>& parts) {
  try {
    action();
    ADD_FAILURE() << "no error; expected one with \"" << (parts.empty() ? "" : parts[0]) << "\"";
  } catch (const UserError& error) {
    for (const auto& part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << "\n lacks: " << part;
  }
}

}  // namespace cairn::testing
