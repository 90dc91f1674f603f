#include "cairn/tasks/weave.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

#include "cairn/core/error.h"

namespace cairn {

void clear_sample(int64_t length, Sample* sample) {
  sample->tokens.resize(length + 1);
  sample->weight.assign(length, 1.0f);
  sample->is_answer.assign(length, 0);
  sample->source.assign(length, {-1, -1});
  sample->key.assign(length, 0);
}

void Weaver::add_statement(double place, Ids ids) {
  Piece piece;
  piece.place = place;
  piece.statement = statements_++;
  piece.content.answer_begin = std::ssize(ids);
  piece.content.ids = std::move(ids);
  tokens_ += piece.content.answer_begin;
  pieces_.push_back(std::move(piece));
}

void Weaver::add_question(double place, Question question, int64_t first_statement) {
  Piece piece;
  piece.place = place;
  piece.first_statement = first_statement;
  piece.content = std::move(question);
  tokens_ += std::ssize(piece.content.ids);
  pieces_.push_back(std::move(piece));
}

void Weaver::weave(int64_t length, double answer_weight, const std::function<void(std::span<int32_t>)>& haystack, Sample* sample) {
  const int64_t hay = length + 1 - tokens_;
  CAIRN_CHECK(hay >= 0, "{} tokens in a sequence of {}", tokens_, length + 1);
  clear_sample(length, sample);
  Ids text(hay);
  if (hay > 0) haystack(text);
  // Stable: pieces at equal places keep the order in which they were added, statements before their question.
  std::stable_sort(pieces_.begin(), pieces_.end(), [](const Piece& a, const Piece& b) { return a.place < b.place; });

  std::vector<int64_t> statement_begin(statements_, -1);
  int64_t position = 0, used = 0;
  for (const Piece& piece : pieces_) {
    const int64_t until = piece.place >= 1 ? hay : std::min(hay, static_cast<int64_t>(piece.place * static_cast<double>(hay)));
    std::copy(text.begin() + used, text.begin() + until, sample->tokens.begin() + position);
    position += until - used;
    used = until;
    const Ids& ids = piece.content.ids;
    std::copy(ids.begin(), ids.end(), sample->tokens.begin() + position);
    if (piece.statement >= 0) {
      statement_begin[piece.statement] = position;
    } else {
      const int64_t answer = position + piece.content.answer_begin;
      CAIRN_CHECK(answer > 0, "an answer needs a question");
      for (int64_t j = 0; j < std::ssize(piece.content.stated); ++j) {
        const int64_t row = answer + j - 1;
        const Stated& stated = piece.content.stated[j];
        sample->is_answer[row] = 1;
        sample->weight[row] = static_cast<float>(answer_weight);
        if (stated.statement < 0) continue;
        const int64_t begin = statement_begin[piece.first_statement + stated.statement];
        CAIRN_CHECK(begin >= 0, "a question stands before its statement");
        sample->source[row] = {begin + stated.token, stated.key_end < 0 ? -1 : begin + stated.key_end};
        sample->key[row] = piece.content.key;
      }
    }
    position += std::ssize(ids);
  }
  std::copy(text.begin() + used, text.end(), sample->tokens.begin() + position);
}

void add_with_questions_last(const Exercise& exercise, Random& random, Weaver* weaver) {
  const int64_t first = weaver->statements();
  for (const auto& group : exercise.groups) {
    std::vector<double> places(group.size());
    for (double& place : places) place = random.uniform();
    std::sort(places.begin(), places.end());
    for (size_t i = 0; i < group.size(); ++i) weaver->add_statement(places[i], group[i]);
  }
  for (size_t i = 0; i < exercise.questions.size(); ++i) weaver->add_question(1.0 + static_cast<double>(i), exercise.questions[i], first);
}

std::vector<int64_t> place_statements(const Exercise& exercise, int64_t haystack_tokens, int64_t anchor_group, int64_t stratum,
                                      int64_t strata, Random& random, int64_t* anchored) {
  // Uniform without overlap: draw places in what is left of the haystack once all statements are taken out, sort, put the statements back
  // in.
  const int64_t free = haystack_tokens - exercise.statement_tokens();
  CAIRN_CHECK(free >= 0, "{} tokens of statements in a haystack of {}", exercise.statement_tokens(), haystack_tokens);
  struct Place {
    int64_t at = 0;
    int64_t statement = 0;
    const Ids* ids = nullptr;
  };
  std::vector<Place> places;
  *anchored = -1;
  for (int64_t g = 0; g < std::ssize(exercise.groups); ++g) {
    const auto& group = exercise.groups[g];
    std::vector<int64_t> draws(group.size());
    for (int64_t& draw : draws) draw = random.below(free + 1);
    int64_t anchor = -1;
    if (g == anchor_group) {
      const double u = (static_cast<double>(stratum) + random.uniform()) / static_cast<double>(strata);
      anchor = draws[0] = std::min(free, static_cast<int64_t>(u * static_cast<double>(free + 1)));
    }
    std::sort(draws.begin(), draws.end());
    for (size_t i = 0; i < group.size(); ++i) {
      if (draws[i] == anchor && *anchored < 0) *anchored = std::ssize(places);
      places.push_back({draws[i], std::ssize(places), &group[i]});
    }
  }
  std::stable_sort(places.begin(), places.end(), [](const Place& a, const Place& b) { return a.at < b.at; });
  std::vector<int64_t> result(places.size());
  int64_t taken = 0;
  for (const Place& place : places) {
    result[place.statement] = place.at + taken;
    taken += std::ssize(*place.ids);
  }
  return result;
}

}  // namespace cairn
