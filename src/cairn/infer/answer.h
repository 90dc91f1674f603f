// Answers with their evidence: tokens drawn from the model behind a prompt, with the chunks that each of them read.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "cairn/infer/reader.h"
#include "cairn/text/tokenizer.h"

namespace cairn {

struct SamplingOptions {
  double temperature = 0;  // 0: the most likely token
  double top_p = 1;        // draws from the smallest set of tokens with so much probability
  uint64_t seed = 1;       // the draw of token i of prompt j is a function of (seed, j, i)
  int64_t max_tokens = 64;
  std::vector<std::string> stop;  // an answer ends in front of the first of these
  bool reads = true;              // fill GeneratedToken::reads
  void validate() const;          // UserError
};

// A chunk that a token read: the share of its retrieval's chunk weight, mean over the heads.
struct ChunkRead {
  int64_t retrieval = 0;  // memory layer with a retrieval of its own, from below
  int64_t chunk = 0;      // absolute number
  double weight = 0;
};

struct GeneratedToken {
  int32_t id = 0;
  double probability = 0;        // that the model gave it (at temperature 1, before top_p)
  std::vector<ChunkRead> reads;  // by retrieval, heaviest first
};

struct Answer {
  std::vector<GeneratedToken> tokens;  // to the end of the stop string, if one came
  std::string text;                    // without it; may end inside a character
  bool stopped = false;                // by a stop string, not by max_tokens
};

// Answers to all prompts behind the text of `state` (one row), in one batch that shares its memory; `state` stays as it is. Each prompt has
// at least one token. A prompt's answer does not depend on the others but for rounding. on_text hears new text of an answer as soon as
// whole characters are there; false from it stops everything.
std::vector<Answer> answer(const Reader& reader, const ReaderState& state, const std::vector<std::vector<int32_t>>& prompts,
                           const Tokenizer& tokenizer, const SamplingOptions& options,
                           const std::function<bool(size_t prompt, std::string_view text)>& on_text = {});

// Draws a token id from logits fp32 [vocab] on the CPU; u in [0,1). Ids at and behind `known` are never drawn.
int32_t draw_token(std::span<const float> logits, int64_t known, double temperature, double top_p, double u);

}  // namespace cairn
