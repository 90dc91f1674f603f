// Lays statements and questions into running text: how training samples are put together, and where the needles of an evaluation sample
// stand.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "cairn/core/random.h"
#include "cairn/tasks/needles.h"
#include "cairn/tasks/sample.h"

namespace cairn {

// Collects statements and questions with their places, then writes one training sequence. Pieces are inserted between haystack tokens:
// piece with place u (0 = before everything, 1 and more = at the end, in this order) stands behind the first floor(u H) of the H haystack
// tokens.
class Weaver {
 public:
  // Statements are numbered in the order of these calls.
  void add_statement(double place, Ids ids);
  // `first_statement` is added to the statement numbers in question.stated.
  void add_question(double place, Question question, int64_t first_statement);
  int64_t tokens() const { return tokens_; }          // so far
  int64_t statements() const { return statements_; }  // so far

  // Fills `sample` to exactly length + 1 tokens; `haystack` writes running text of the given size. tokens() must be at most length + 1.
  void weave(int64_t length, double answer_weight, const std::function<void(std::span<int32_t>)>& haystack, Sample* sample);

 private:
  struct Piece {
    double place = 0;
    int64_t statement = -1;  // -1: a question
    int64_t first_statement = 0;
    Question content;
  };
  std::vector<Piece> pieces_;
  int64_t tokens_ = 0, statements_ = 0;
};

// Empty rows for `length` + 1 tokens: weight 1, no answers, no sources.
void clear_sample(int64_t length, Sample* sample);

// Every question of the exercise at the end, every statement at a uniform random place before, order kept inside each group.
void add_with_questions_last(const Exercise& exercise, Random& random, Weaver* weaver);

// Start positions of all statements (numbered through the groups) in a haystack of `haystack_tokens`: uniform without overlap, order kept
// inside each group. One statement of `anchor_group` is drawn from the `stratum`-th of `strata` equal parts of the haystack instead, so
// that depths fill evenly over the strata while the places stay uniform over all samples. Returns that statement's number in *anchored.
std::vector<int64_t> place_statements(const Exercise& exercise, int64_t haystack_tokens, int64_t anchor_group, int64_t stratum,
                                      int64_t strata, Random& random, int64_t* anchored);

}  // namespace cairn
