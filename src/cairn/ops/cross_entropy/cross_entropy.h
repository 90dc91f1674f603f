// Cross-entropy of next tokens from hidden states, in row blocks: never all of [rows, vocab] in fp32.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace cairn {

struct CrossEntropy {
  at::Tensor loss;     // fp32 [rows] per-token loss (fp64 in fp64); differentiable in hidden and embedding
  at::Tensor correct;  // bool [rows]: arg max == target (no autograd)
};
// hidden [rows, d], embedding [vocab, d] (same dtype), target int64 [rows].
CrossEntropy linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& embedding, const at::Tensor& target);
CrossEntropy linear_cross_entropy_reference(const at::Tensor& hidden, const at::Tensor& embedding, const at::Tensor& target);

}  // namespace cairn
