// The training losses (docs/algorithm.md section 3). All sums are over the global batch: with several processes each returns its share, so
// that gradients add up to those of one process with the same batch.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "cairn/dist/world.h"
#include "cairn/model/config.h"
#include "cairn/model/language_model.h"

namespace cairn {

// Cross-entropy of next tokens: sum(weight * loss) / global sum(weight). hidden [B,L,d], embedding [vocab,d], target int64 [B,L], weight
// fp32 [B,L].
struct TokenLoss {
  at::Tensor loss;       // scalar, differentiable
  at::Tensor per_token;  // fp32 [B,L], detached
  at::Tensor correct;    // bool [B,L]
};
TokenLoss token_loss(const at::Tensor& hidden, const at::Tensor& embedding, const at::Tensor& target, const at::Tensor& weight,
                     World& world);

// Landmark distillation: cross-entropy of softmax(score) against the exact attention mass over all visible chunks, mean over tokens t >= S;
// summed over retrievals.
at::Tensor distillation_loss(const Trace& trace, int64_t chunk, World& world);

// Route loss: -log of the softmax mass on the source chunks, over own visible chunks and all chunks of the global batch's other sequences.
// source int64 [B,L,2] chunk numbers or -1 of the token that row t predicts; weight fp32 [B,L]. Summed over retrievals. Q = 1.
// key int64 [B,L] in 0 .. kKeyClasses - 1, or undefined: what row t looks its answer up by, 0 = nothing. Chunks of other sequences that
// state the same key are no rivals: no query can tell them from its own source, and the loss would pull against itself. (Keys are compared
// by class, so one rival in kKeyClasses is left out for nothing.)
// rows int64 [n]: numbers b L + t of the rows that have a visible source, each once, -1 elsewhere; only these are scored against all
// chunks. Undefined: all rows are.
inline constexpr int64_t kKeyClasses = 4096;
at::Tensor route_loss(const Trace& trace, const at::Tensor& source, const at::Tensor& weight, const at::Tensor& key, int64_t chunk,
                      const std::shared_ptr<World>& world, const at::Tensor& rows = {});

// Share of answer rows (weight of row > 1 and a visible source) whose source chunk is among the top_k clean scores; [retrievals, 2]: top_k
// and top 1.
at::Tensor source_recall(const Trace& trace, const at::Tensor& source, const at::Tensor& is_answer, int64_t chunk, int64_t top_k);

}  // namespace cairn
