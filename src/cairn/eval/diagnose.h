// What the theory says about retrieval, measured on the samples of a cell (`cairn eval --diagnose`, docs/evaluation.md):
//
//   rank          1 + visible landmarks that score higher than the best source chunk, at a row that predicts an answer token
//   KL, Spearman  the landmark softmax and scores against the true attention mass of all visible chunks; short texts only
//   drops         log-probability that the right token loses when its source chunk, or another selected chunk, cannot be chosen
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cairn/eval/statistics.h"
#include "cairn/infer/reader.h"
#include "cairn/tasks/sample.h"

namespace cairn {

// The masses need all keys of a text at once.
inline constexpr int64_t kMassTokens = 16384;

struct RetrievalDiagnosis {
  std::vector<int64_t> ranks;  // of the best source chunk: one a row with a visible source chunk
  Mean kl, spearman;           // over such rows; empty for texts longer than kMassTokens. KL(mass || landmark softmax) in nats
};

struct Diagnosis {
  std::vector<RetrievalDiagnosis> retrievals;
  // Nats, over answer tokens whose (first) source chunk was selected by some retrieval; the other chunk is one drawn from what was selected
  // there, and counts where it was selected.
  Mean source_drop, other_drop;
};

// `state` holds the one text of `sample` up to its tail or earlier and was not asked yet; it is left as it was.
void diagnose_sample(const Reader& reader, const ReaderState& state, const EvalSample& sample, Diagnosis* diagnosis);

// The rank of the best of sources[r] among the first visible[r] chunks of the memory (absolute numbers; each source is one of them) for
// every row r of query [1,R,Q,Dr]; with several retrieval heads the best of them. Scores are made page by page: memory O(R Q) numbers and
// one block.
std::vector<int64_t> source_ranks(const ChunkMemory& memory, const at::Tensor& query, std::span<const int64_t> visible,
                                  std::span<const std::vector<int64_t>> sources);

// Adds KL and Spearman of every row: landmark scores [R,Q,C] against log masses [R,H,C], both fp32, contiguous, on the CPU, over the first
// visible[r] chunks. The mass of a chunk is the mean over the H / Q heads that share a retrieval head; with several the rows' means over
// them.
void compare_with_mass(const at::Tensor& score, const at::Tensor& lse, std::span<const int64_t> visible, RetrievalDiagnosis* d);

// The smallest of the values that at least `share` of them do not exceed; there must be one.
int64_t quantile(std::vector<int64_t> values, double share);
// Spearman's rank correlation, ties at their mean rank; NaN if a side has no two different values or there are fewer than two pairs.
double spearman(std::span<const double> a, std::span<const double> b);

}  // namespace cairn
