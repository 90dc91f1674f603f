// Why a token of an answer came out wrong, from what the retrievals chose at the row that predicts it (docs/evaluation.md).
//
//   not found   no retrieval selected a source chunk of the token, though one was visible
//   not used    a source chunk was selected, but in every retrieval that selected one another chunk had more weight than any source chunk
//   misread     a source chunk was the heaviest chunk of some retrieval, and the token is wrong all the same
//   no source   the token has no visible source chunk: it is not stated, or it stands in the chunk of the row itself
//
// The weight of a chunk in one retrieval is the mean over the heads; of two chunks that weigh the same the source counts as the heavier.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "cairn/model/config.h"

namespace cairn {

enum class Failure { kNotFound, kNotUsed, kMisread, kNoSource };
inline constexpr int kFailures = 4;
// Names in files ("not_found") in the order above.
std::string_view failure_name(int failure);

// What one retrieval chose for one row: index [Q,N] chunk numbers (-1 unused), weight [heads,N] with heads a multiple of Q (head h uses the
// chunks of index row h / (heads / Q)).
struct Choice {
  std::span<const int64_t> index;
  std::span<const float> weight;
  int64_t slots = 0;  // N
  bool holds(int64_t chunk) const;
};

// `sources`: the visible source chunks of the token, at most two.
Failure classify_failure(std::span<const Choice> choices, std::span<const int64_t> sources);

// Number of chunks that the retrieval of the token at `position` sees: chunks 0 .. n-1 (docs/algorithm.md section 1, "Visibility";
// exclude_window and retrieval_stride counted in).
int64_t visible_chunk_count(const ModelConfig& config, int64_t position);
// The visible source chunks of a token that the row at `position` predicts; source as in EvalAnswer. No chunk twice.
std::vector<int64_t> visible_sources(const ModelConfig& config, int64_t position, const std::array<int64_t, 2>& source);

}  // namespace cairn
