#include "cairn/eval/failures.h"

#include <algorithm>
#include <map>

#include "cairn/core/error.h"

namespace cairn {
namespace {

// Total weight of every chunk of one choice, over the heads.
std::map<int64_t, double> chunk_weights(const Choice& choice) {
  std::map<int64_t, double> total;
  if (choice.slots == 0) return total;
  const int64_t groups = static_cast<int64_t>(choice.index.size()) / choice.slots;
  const int64_t heads = static_cast<int64_t>(choice.weight.size()) / choice.slots;
  CAIRN_CHECK(groups >= 1 && heads >= groups && heads % groups == 0, "{} index rows, {} weight rows", groups, heads);
  for (int64_t head = 0; head < heads; ++head) {
    const int64_t* index = choice.index.data() + head / (heads / groups) * choice.slots;
    const float* weight = choice.weight.data() + head * choice.slots;
    for (int64_t k = 0; k < choice.slots; ++k) {
      if (index[k] >= 0) total[index[k]] += weight[k];
    }
  }
  return total;
}

}  // namespace

std::string_view failure_name(int failure) {
  static constexpr std::string_view kNames[kFailures] = {"not_found", "not_used", "misread", "no_source"};
  return kNames[failure];
}

bool Choice::holds(int64_t chunk) const { return std::find(index.begin(), index.end(), chunk) != index.end(); }

Failure classify_failure(std::span<const Choice> choices, std::span<const int64_t> sources) {
  if (sources.empty()) return Failure::kNoSource;
  bool found = false;
  for (const Choice& choice : choices) {
    double source = -1, other = -1;
    for (const auto& [chunk, weight] : chunk_weights(choice)) {
      double& best = std::find(sources.begin(), sources.end(), chunk) != sources.end() ? source : other;
      best = std::max(best, weight);
    }
    if (source < 0) continue;
    found = true;
    if (source >= other) return Failure::kMisread;
  }
  return found ? Failure::kNotUsed : Failure::kNotFound;
}

int64_t visible_chunk_count(const ModelConfig& config, int64_t position) {
  if (config.retrieval_stride == "chunk") {
    // Rows of chunk c use the query of the last token of chunk c-1, which sees chunks as if a chunk were one token.
    const int64_t row = position / config.chunk - 1;
    const int64_t window = config.exclude_window ? (config.window + config.chunk - 1) / config.chunk : 0;
    return std::max<int64_t>(row + (window > 0 ? 1 - window : 0), 0);
  }
  return std::max<int64_t>(position + (config.exclude_window ? 1 - config.window : 0), 0) / config.chunk;
}

std::vector<int64_t> visible_sources(const ModelConfig& config, int64_t position, const std::array<int64_t, 2>& source) {
  const int64_t visible = visible_chunk_count(config, position);
  std::vector<int64_t> chunks;
  for (const int64_t place : source) {
    if (place < 0 || place / config.chunk >= visible) continue;
    if (chunks.empty() || chunks[0] != place / config.chunk) chunks.push_back(place / config.chunk);
  }
  return chunks;
}

}  // namespace cairn
