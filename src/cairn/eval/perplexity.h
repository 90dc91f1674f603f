// Language-model loss of the same tokens behind contexts of different lengths, and by position (docs/evaluation.md, "Perplexity").
//
//   text   ....[------------- longest context -------------][targets]....     one window; `windows` of them, evenly over the text
//                                      [ ------ near ------][targets]         the same targets, less in front
//
// Every context starts a text of its own at position 0. Losses are natural logarithms.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cairn/eval/eval_json.h"
#include "cairn/eval/statistics.h"
#include "cairn/infer/reader.h"
#include "cairn/text/token_source.h"

namespace cairn {

struct PerplexityPlan {
  std::shared_ptr<const TokenSource> text;
  std::vector<int64_t> lengths;  // tokens in front of the targets; `near` is measured in any case
  int64_t near = 4096;           // what the others are compared with
  int64_t targets = 1024;        // tokens a window
  int64_t windows = 8;
  int64_t batch = 0;  // windows read together; 0: what fits and pays
};

// Loss a token behind `length` tokens.
struct LengthLoss {
  int64_t length = 0;
  Mean loss;                // over all target tokens
  Mean difference;          // over the same tokens: loss behind `length` tokens less loss behind `near`; below 0: the longer text helps
  Mean window_differences;  // the same, a value a window (tokens of a window are not independent)
};

// Loss a token of the `targets` tokens behind the first `position` tokens of the longest context; other tokens at each position.
struct PositionLoss {
  int64_t position = 0, bytes = 0;
  Mean loss;
};

struct PerplexityResult {
  int64_t windows = 0, targets = 0, near = 0;
  int64_t bytes = 0;                    // of all target tokens, decoded
  std::vector<LengthLoss> lengths;      // ascending
  std::vector<PositionLoss> positions;  // powers of two from `targets` on, and the longest length
  double seconds = 0;
  int64_t tokens_read = 0;  // through the lower half
};

// Where each window's targets end. UserError if the text is too short for the longest length or for disjoint targets.
std::vector<int64_t> window_ends(const PerplexityPlan& plan);

// Raises UserError and ResourceError before any work. `on_result` hears the windows so far. A stop request leaves out the unfinished
// windows.
PerplexityResult measure_perplexity(const Reader& reader, const Tokenizer& tokenizer, const PerplexityPlan& plan,
                                    const std::function<void(const PerplexityResult&)>& on_result = {});

double bits_per_byte(const Mean& loss, int64_t bytes);  // NaN without bytes
std::string perplexity_json(const EvalHeader& header, const ModelConfig& config, const PerplexityResult& result);
std::string perplexity_table(const PerplexityResult& result);

}  // namespace cairn
