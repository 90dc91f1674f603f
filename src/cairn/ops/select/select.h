// Landmark selection (docs/algorithm.md section 1, "Score", "Visibility", "Select").
//
//   score[b,t,q,i] = rq[b,t,q] . landmark[b,i,q] / sqrt(Dr)
//   visible(t,i)   = t >= (i+1) S, and with exclude_window: t - window + 1 > (i+1) S - 1
//   selected       = the N visible chunks with the highest score (+ noise); ties go to the more recent chunk; listed nearest (highest
//   number) first, -1 unused
//
// Shapes: rq [B,L,Q,Dr], landmarks [B,C,Q,Dr]; token t of the row stands at position first_position + t (int64, may exceed 2^31).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace cairn {

struct Visibility {
  int64_t chunk = 64;          // S
  int64_t first_position = 0;  // absolute position of row 0
  int64_t first_chunk = 0;     // absolute number of landmark 0
  int64_t exclude_window = 0;  // W, or 0: off
};

struct Selection {
  at::Tensor index;  // int64 [B,L,Q,N], N = min(top_k, C): numbers relative to `landmarks`, descending, -1 unused
  at::Tensor score;  // clean scores of the selected, fp32 [B,L,Q,N] (0 where unused), no autograd
};

// [L,C] bool.
at::Tensor visible_chunks(int64_t rows, int64_t chunks, const Visibility& visibility, at::Device device);

// Scores of all pairs, fp32 [B,L,Q,C]; differentiable. For training lengths only.
at::Tensor landmark_scores(const at::Tensor& rq, const at::Tensor& landmarks);

// Picks from given scores (no autograd). noise_key != 0: Gumbel noise -log(Exp(1)), a function of (noise_key, first_row + b, t, q, i), is
// added for the choice only.
Selection select_from_scores(const at::Tensor& score, int64_t top_k, const Visibility& visibility, uint64_t noise_key = 0,
                             int64_t first_row = 0);

// Scores and top-N without ever holding [L,C]: blocks of chunks with a running top-N; memory O(L * (N + block)). No autograd, no noise.
Selection select_chunks(const at::Tensor& rq, const at::Tensor& landmarks, int64_t top_k, const Visibility& visibility);

// The same over pages of landmarks ([B,c_j,Q,Dr] each, in order).
Selection select_chunks(const at::Tensor& rq, const std::vector<at::Tensor>& landmark_pages, int64_t top_k, const Visibility& visibility);

// Selections of parts of one memory, to be merged: int64 [B,L,Q,slots] that compare like (score, chunk number), the lowest of all where
// unused or beyond the selection's own slots (slots >= N). Numbers below 2^31.
at::Tensor selection_keys(const Selection& selection, int64_t slots);
// The best n of such keys [B,L,Q,M], M >= n, as a selection: index and score [B,L,Q,n].
Selection selection_of_keys(const at::Tensor& keys, int64_t n);

// Chunk weights of the selected scores, fp32; differentiable. softmax over used slots, or stick-breaking nearest first. s [...,N], used
// bool [...,N].
at::Tensor softmax_weights(const at::Tensor& s, const at::Tensor& used);
at::Tensor stick_breaking_weights(const at::Tensor& s, const at::Tensor& used);

}  // namespace cairn
