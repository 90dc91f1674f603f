// The generators of training samples over running text (all tasks but word_pairs).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cairn/core/random.h"
#include "cairn/tasks/needles.h"
#include "cairn/tasks/sample.h"
#include "cairn/tasks/weave.h"

namespace cairn {

// How many statements and questions a task has.
struct Plan {
  bool chains = false;  // chains of `links` assignments, or single key-value sentences
  int64_t groups = 1, links = 1, asked = 1;
  Exercise make(const NeedleMaker& maker, Draws& draws) const;
};

// The plans of a needle task: the first is the task, the others are what a training sequence too short for it gets. A bug if `task` is
// none.
const std::vector<Plan>& plans(const std::string& task);

class TrainingSamples {
 public:
  // `maker` may be null where only text and copy are made.
  TrainingSamples(std::shared_ptr<const Tokenizer> tokenizer, std::shared_ptr<const TokenSource> text,
                  std::shared_ptr<const NeedleMaker> maker, double answer_weight)
      : tokenizer_(std::move(tokenizer)), text_(std::move(text)), maker_(std::move(maker)), answer_weight_(answer_weight) {}

  // Fills `sample`, whose task is set. UserError if `length` is too short, naming one that is not; or if the text is.
  void make(Random& random, int64_t length, Sample* sample) const;

 private:
  void read_text(const std::string& task, Random& random, std::span<int32_t> out) const;
  void text_sample(Random& random, int64_t length, Sample* sample) const;
  void copy_sample(Random& random, int64_t length, Sample* sample) const;
  void dense_needles(Random& random, int64_t length, Sample* sample) const;
  void dense_chains(Random& random, int64_t length, Sample* sample) const;
  void needle_sample(const std::vector<Plan>& attempts, Random& random, int64_t length, Sample* sample) const;
  void finish(Weaver& weaver, Random& random, int64_t length, Sample* sample) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<const TokenSource> text_;
  std::shared_ptr<const NeedleMaker> maker_;
  double answer_weight_;
};

}  // namespace cairn
