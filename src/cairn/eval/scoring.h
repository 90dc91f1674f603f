// One batch of evaluation samples on a state that has read everything before their tails. Private to eval.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "cairn/eval/evaluate.h"

namespace cairn {

// What one sample got.
struct SampleScore {
  bool correct = false, generated = false;
  int64_t tokens = 0, tokens_correct = 0;
  std::optional<Failure> failure;                 // of the first wrong token, teacher-forced
  std::vector<int64_t> recall_rows, recall_hits;  // per retrieval
};

// True if `text` contains `part`, upper and lower case of ASCII letters being the same.
bool contains_case_insensitive(std::string_view text, std::string_view part);

// Tokens begin .. end of the samples as int64 [B,n] on `device`.
at::Tensor sample_tokens(std::span<const EvalSample> samples, int64_t begin, int64_t end, at::Device device);

// `state` stands at position `begin` <= every first question's place; it is left as it was. generate_answers false: teacher-forced only
// (floors). `times` (may be null): seconds of asking and generating are added.
std::vector<SampleScore> score_samples(const Reader& reader, const ReaderState& state, std::span<const EvalSample> samples,
                                       const Tokenizer& tokenizer, bool generate_answers, EvalTimes* times = nullptr);

// Times a few greedy steps behind the tail of `sample`, row 0 of `state` alone, one token a step; the first steps are not timed.
void measure_decoding(const Reader& reader, const ReaderState& state, const EvalSample& sample, EvalTimes* times);

void add_score(const SampleScore& score, const EvalSample& sample, EvalCell* cell);

}  // namespace cairn
