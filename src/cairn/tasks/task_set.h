// The generators behind one door. Sample i is a pure function of (seed, i, length); generators hold no state and are thread-safe.
//
// Tasks (docs/tasks.md; forms after NVIDIA/RULER and arXiv 2510.17196):
//   text                   running text
//   copy                   a passage twice; 30 % of it random tokens
//   single_needle          S-N: one key-value sentence, asked at the end
//   multi_query            MQ: 4 key-value sentences, 2 asked
//   variable_tracking      VT: one chain of 5 assignments, all its variables asked in order
//   variable_tracking_2    VT2: two chains of 3
//   dense_needles          many key-value sentences and questions, 30 to 60 % of the sequence (training only)
//   dense_chains           many chains of 2 to 5 with their questions, 20 to 75 % of the sequence (training only)
//   word_pairs             tiny models: one-token keys and values among rivals (own word tokenizer; haystack of rivals when evaluated)
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cairn/core/options.h"
#include "cairn/tasks/sample.h"

namespace cairn {

struct TaskOptions {
  // Shares of training samples, "task:share"; normalised to sum 1.
  std::vector<std::string> mix = {"text:0.12",
                                  "copy:0.08",
                                  "single_needle:0.03",
                                  "multi_query:0.08",
                                  "variable_tracking:0.11",
                                  "variable_tracking_2:0.08",
                                  "dense_needles:0.18",
                                  "dense_chains:0.32"};
  double answer_weight = 20;
  int64_t pair_needles = 6;  // word_pairs: needles a training sequence
  void declare(OptionTable& table, const std::string& section = "tasks");
};

class TaskSet {
 public:
  // `text` gives running text for training samples (may be null for word_pairs).
  TaskSet(std::shared_ptr<const Tokenizer> tokenizer, std::shared_ptr<const TokenSource> text, TaskOptions options);
  ~TaskSet();

  Sample training_sample(uint64_t seed, int64_t index, int64_t length) const;
  // Evaluation keys, names and values only (hash mod 16 == 0); `haystack` null: the task's own (word_pairs). UserError if `length` is too
  // short.
  EvalSample eval_sample(const std::string& task, uint64_t seed, int64_t index, int64_t length,
                         std::shared_ptr<const TokenSource> haystack) const;
  static std::vector<std::string> training_tasks();
  static std::vector<std::string> eval_tasks();

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

// The word tokenizer of word_pairs (128 key/value words, filler words, marks).
std::shared_ptr<const Tokenizer> make_word_pairs_tokenizer();

}  // namespace cairn
