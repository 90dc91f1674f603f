// The task of tiny models: one-token keys and values among rivals, in a vocabulary of its own.
//
//   statement   amber is river      question   ask amber river
//
// The key is the last token before the answer: the row that predicts the value stands on the word it must look for.
//
// Around them stand filler words in random order. Pairs whose "key value" is_held_out() are asked in evaluation only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cairn/core/random.h"
#include "cairn/tasks/needles.h"
#include "cairn/tasks/sample.h"
#include "cairn/text/token_source.h"

namespace cairn {

class WordPairs {
 public:
  static constexpr int64_t kWords = 128;          // words that are keys or values
  static constexpr int64_t kKeys = 64;            // the first so many are keys, the others values
  static constexpr int64_t kStatement = 3;        // tokens of a statement
  static constexpr int64_t kQuestion = 3;         // tokens of a question with its answer
  static constexpr int64_t kBlock = 128;          // the evaluation haystack has `needles` rivals in each block of this many tokens
  static constexpr int64_t kMaximumNeedles = 16;  // a sequence

  explicit WordPairs(int64_t needles) : needles_(needles) {}

  static std::vector<std::string> vocabulary();  // ids 1 ..; id 0 is the pad
  static std::string_view word(int64_t index);   // key or value word, 0 <= index < kWords
  static bool held_out(int64_t key, int64_t value);

  void training_sample(Random& random, int64_t length, double answer_weight, Sample* sample) const;
  // Fills everything but task and index. `haystack` null: fillers and rivals with any key but the asked one.
  void eval_sample(Random& random, int64_t stratum, int64_t strata, int64_t length, std::shared_ptr<const TokenSource> haystack,
                   EvalSample* sample) const;

  // Random access to endless fillers with rival statements; no statement of the key `excluded`.
  static std::shared_ptr<const TokenSource> rivals(uint64_t key, int64_t needles, int64_t excluded);
  static bool is_filler(int32_t id);

 private:
  int64_t needles_;
};

}  // namespace cairn
