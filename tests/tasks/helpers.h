// Haystacks and tokenizers for the tests of this room.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/core/random.h"
#include "cairn/tasks/task_set.h"
#include "cairn/tasks/words.h"
#include "cairn/text/token_source.h"

namespace cairn {

inline std::shared_ptr<const Tokenizer> bytes_tokenizer() {
  static const auto tokenizer = load_tokenizer("bytes");
  return tokenizer;
}

// Lower-case words without digits, "VAR" or the words of needles, so that everything else in a sample was put there by the generator.
inline std::string plain_text(int64_t words, uint64_t seed) {
  static const char* kWords[] = {"hum", "drift",  "lorem", "ipsum",  "dolor", "sit",  "amet", "elit",
                                 "sed", "tempor", "ut",    "labore", "magna", "quis", "nisi", "ex"};
  Random random(seed, 0);
  std::string text;
  for (int64_t i = 0; i < words; ++i) text += std::string(i % 11 == 0 ? ". " : " ") + kWords[random.below(16)];
  return text;
}

// A small BPE model over the words and sentences of needles, trained once a test run.
inline std::shared_ptr<const Tokenizer> piece_tokenizer() {
  static const auto tokenizer = [] {
    Random random(7, 7);
    std::string text = plain_text(3000, 3);
    for (int i = 0; i < 1500; ++i) {
      const std::string a(adjectives()[random.below(std::ssize(adjectives()))]), b(nouns()[random.below(std::ssize(nouns()))]);
      std::string name;
      for (int j = 0; j < 5; ++j) name += static_cast<char>('A' + random.below(26));
      text += " One of the special magic numbers for " + a + "-" + b + " is: " + std::to_string(random.below(10000000)) + ".\nVAR " + name +
              " = " + std::to_string(random.below(100000)) + " . What is it, mentioned in the provided text? They are: " + name + "\n";
    }
    const fs::path folder = fs::path(testing::TempDir()) / "cairn_tasks_tokenizer";
    fs::create_directories(folder);
    write_file(folder / "text.txt", text);
    TokenizerTraining training;
    training.files = {folder / "text.txt"};
    training.vocab_size = 1200;
    return parse_tokenizer(train_sentencepiece(training), "test model");
  }();
  return tokenizer;
}

class VectorSource : public TokenSource {
 public:
  explicit VectorSource(std::vector<int32_t> tokens) : tokens_(std::move(tokens)) {}
  int64_t size() const override { return std::ssize(tokens_); }
  std::string name() const override { return "vector"; }
  void read(int64_t begin, std::span<int32_t> out) const override {
    CAIRN_CHECK(begin >= 0 && begin + std::ssize(out) <= size());
    std::copy_n(tokens_.begin() + begin, out.size(), out.begin());
  }

 private:
  std::vector<int32_t> tokens_;
};

// A haystack of any size that needs no memory: token p is 1 + a hash of p in 16 bits.
class VirtualSource : public TokenSource {
 public:
  explicit VirtualSource(int64_t size) : size_(size) {}
  int64_t size() const override { return size_; }
  std::string name() const override { return "virtual"; }
  static int32_t token(int64_t p) { return 1 + static_cast<int32_t>(stream_key({static_cast<uint64_t>(p)}) % 65536); }
  void read(int64_t begin, std::span<int32_t> out) const override {
    CAIRN_CHECK(begin >= 0 && begin + std::ssize(out) <= size_);
    for (size_t i = 0; i < out.size(); ++i) out[i] = token(begin + static_cast<int64_t>(i));
  }

 private:
  int64_t size_;
};

inline std::shared_ptr<const TokenSource> plain_source(const Tokenizer& tokenizer, int64_t words = 60000) {
  return std::make_shared<VectorSource>(tokenizer.encode(plain_text(words, 1)));
}

inline TaskSet task_set(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> mix) {
  TaskOptions options;
  if (!mix.empty()) options.mix = std::move(mix);
  auto text = plain_source(*tokenizer);
  return TaskSet(tokenizer, text, options);
}

inline std::vector<int32_t> whole(const EvalSample& sample) {
  std::vector<int32_t> tokens(sample.length);
  read_sample(sample, 0, tokens);
  return tokens;
}

// Everything that generated sentences name.
struct Facts {
  std::vector<std::pair<std::string, std::string>> statements, questions;  // key, value; a question with the answer that follows it
  std::vector<std::pair<std::string, std::string>> assignments;            // name, number or earlier name; in order of the text
  std::vector<std::pair<std::string, std::vector<std::string>>> chains;    // number asked, names answered

  explicit Facts(const std::string& text) {
    static const std::regex statement("One of the special magic numbers for ([a-z]+-[a-z]+) is: ([0-9]{7})\\.");
    static const std::regex question(
        "What is the special magic number for ([a-z]+-[a-z]+) mentioned in the provided text\\? The special magic number for "
        "([a-z]+-[a-z]+) mentioned in the "
        "provided text is ([0-9]{7})\\.");
    static const std::regex assignment(" VAR ([A-Z]{5}) = (VAR ([A-Z]{5})|[0-9]{5}) ");
    static const std::regex chain(
        "Question: Find all variables that are assigned the value ([0-9]{5}) in the text above\\. Answer: According to the chain\\(s\\) of "
        "variable assignment in "
        "the text above, ([0-9]) variables are assigned the value ([0-9]{5}), they are:(( [A-Z]{5})+)\\.");
    const std::sregex_iterator end;
    for (std::sregex_iterator it(text.begin(), text.end(), statement); it != end; ++it) statements.emplace_back((*it)[1], (*it)[2]);
    for (std::sregex_iterator it(text.begin(), text.end(), question); it != end; ++it) {
      EXPECT_EQ((*it)[1], (*it)[2]);
      questions.emplace_back((*it)[1], (*it)[3]);
    }
    // Adjacent assignments share no character in the pattern, but may touch: search on from the last character of a match.
    std::smatch match;
    for (auto from = text.begin(); std::regex_search(from, text.end(), match, assignment); from = match[0].second) {
      assignments.emplace_back(match[1], match[3].matched ? match[3] : match[2]);
    }
    for (std::sregex_iterator it(text.begin(), text.end(), chain); it != end; ++it) {
      EXPECT_EQ((*it)[1], (*it)[3]);
      std::vector<std::string> names;
      const std::string list = (*it)[4];
      for (size_t i = 0; i < list.size(); i += 6) names.push_back(list.substr(i + 1, 5));
      EXPECT_EQ(std::to_string(names.size()), (*it)[2]);
      chains.emplace_back((*it)[1], names);
    }
  }

  // Every key, name and value.
  std::vector<std::string> strings() const {
    std::vector<std::string> all;
    for (const auto* list : {&statements, &questions, &assignments}) {
      for (const auto& [a, b] : *list) all.push_back(a), all.push_back(b);
    }
    for (const auto& [number, names] : chains) {
      all.push_back(number);
      all.insert(all.end(), names.begin(), names.end());
    }
    return all;
  }
};

}  // namespace cairn
