#include "cairn/eval/log_probs.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <algorithm>
#include <utility>

#include "cairn/core/error.h"

namespace cairn {

at::Tensor next_token_log_probs(const Reader& reader, ReaderState& state, const at::Tensor& tokens, const AskOptions& ask, Trace* trace) {
  const at::NoGradGuard no_gradient;
  const int64_t columns = tokens.size(1) - 1;
  CAIRN_CHECK(columns >= 1, "{} tokens", tokens.size(1));
  const int64_t block = std::max<int64_t>((int64_t{1} << 26) / (tokens.size(0) * reader.vocab()), 16);
  if (trace != nullptr) *trace = {};
  std::vector<at::Tensor> parts;
  for (int64_t at = 0; at < columns; at += block) {
    const int64_t n = std::min(block, columns - at);
    Trace part;
    const at::Tensor logits = reader.advance_last(state, tokens.narrow(1, at, n), n, trace != nullptr ? &part : nullptr, ask);
    parts.push_back(logits.log_softmax(-1).gather(-1, tokens.narrow(1, at + 1, n).unsqueeze(-1)).squeeze(-1).to(at::kCPU));
    if (trace != nullptr) append_trace(std::move(part), trace);
  }
  return at::cat(parts, 1).contiguous();
}

}  // namespace cairn
