// What the task generators make: training samples and evaluation samples. Positions are in tokens, 64-bit. Torch-free.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cairn/text/token_source.h"

namespace cairn {

// One training sequence. Row t predicts tokens[t + 1]; all per-row vectors have L entries.
struct Sample {
  std::string task;
  std::vector<int32_t> tokens;     // L + 1
  std::vector<float> weight;       // loss weight of row t: answers 20, everything else 1 (copies count 1)
  std::vector<uint8_t> is_answer;  // row t predicts an answer token (or a token that is being copied)
  // source[t][0]: position in this sequence where the token that row t predicts is stated, tokens[source[t][0]] == tokens[t + 1];
  // source[t][1]: for chains also the last token of what that statement refers to (the end of "VAR prev" in "VAR Y = VAR prev"). -1 = none.
  std::vector<std::array<int64_t, 2>> source;
  // Hash of the key that row t's answer is looked up by; 0 = none. Rows of other sequences with the same one look for the same key: what is
  // stated there would be as good a find as this sequence's own source, so it is no rival of it (route loss).
  std::vector<uint64_t> key;
};

// Overwrites tokens [position, position + ids.size()) of a haystack.
struct Edit {
  int64_t position = 0;
  std::vector<int32_t> ids;
};

// One answer inside the tail of an evaluation sample.
struct EvalAnswer {
  int64_t begin = 0, end = 0;                  // token range in `tail`; everything before `begin` is its prompt
  std::string reference;                       // text that a generated answer must contain, case-insensitive; empty if `references` is used
  std::vector<std::string> references;         // when several strings must all be found (variable tracking); else empty
  std::vector<std::array<int64_t, 2>> source;  // for each answer token: positions in the whole sample, as in Sample::source
};

// One evaluation sample of `length` tokens: haystack tokens haystack_begin .. with edits laid over, the tail at the very end.
// Kept symbolic, so that a 128 M sample costs nothing until it is read.
struct EvalSample {
  std::string task;
  int64_t index = 0;
  int64_t length = 0;
  std::shared_ptr<const TokenSource> haystack;
  int64_t haystack_begin = 0;  // haystack token that stands at position 0
  std::vector<Edit> edits;     // sorted by position, disjoint, all before the tail
  std::vector<int32_t> tail;   // questions with their answers; occupies positions length - tail.size() ..
  std::vector<EvalAnswer> answers;
  double depth = 0;  // position of the first asked needle (chains: of one statement of the asked chain) / length, 0..1
};

// Tokens begin .. begin + out.size() of the sample.
void read_sample(const EvalSample& sample, int64_t begin, std::span<int32_t> out);

}  // namespace cairn
