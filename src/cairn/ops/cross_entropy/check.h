// Inside ops/cross_entropy only.
#pragma once

#include "cairn/ops/require.h"

namespace cairn {

// hidden [rows, d], embedding [vocab, d], target int64 [rows]; a violation is a bug.
inline void check_cross_entropy(const at::Tensor& hidden, const at::Tensor& embedding, const at::Tensor& target) {
  constexpr const char* kOp = "linear_cross_entropy";
  require_dimensions(kOp, "hidden", hidden, 2, "[rows, d]");
  require_dimensions(kOp, "embedding", embedding, 2, "[vocab, d]");
  require_sizes(kOp, "embedding", embedding, {embedding.size(0), hidden.size(1)}, "[vocab, d] with d of hidden");
  require_sizes(kOp, "target", target, {hidden.size(0)}, "the rows of hidden");
  require_type(kOp, "embedding", embedding, hidden.scalar_type());
  require_type(kOp, "target", target, at::kLong);
  require_device(kOp, "embedding", embedding, "hidden", hidden);
  require_device(kOp, "target", target, "hidden", hidden);
}

}  // namespace cairn
