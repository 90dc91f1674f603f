// Log-probabilities of given tokens, a few columns of logits at a time.
#pragma once

#include "cairn/infer/reader.h"

namespace cairn {

// tokens int64 [B,m+1]; returns fp32 [B,m] on the CPU: natural log-probability of column c+1 given the state and columns 0 .. c. Advances
// `state` over columns 0 .. m-1. trace (may be null): of those m rows.
at::Tensor next_token_log_probs(const Reader& reader, ReaderState& state, const at::Tensor& tokens, const AskOptions& ask = {},
                                Trace* trace = nullptr);

}  // namespace cairn
