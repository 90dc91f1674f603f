#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>

#include "cairn/core/error.h"
#include "cairn/ops/cross_entropy/cross_entropy.h"

namespace cairn {

CrossEntropy linear_cross_entropy_reference(const at::Tensor& hidden, const at::Tensor& embedding, const at::Tensor& target) {
  CAIRN_CHECK(hidden.dim() == 2 && embedding.dim() == 2 && target.dim() == 1 && hidden.size(1) == embedding.size(1) &&
                  target.size(0) == hidden.size(0),
              "cross entropy: hidden of {}, embedding of {}, {} targets", hidden.numel(), embedding.numel(), target.numel());
  CAIRN_CHECK(hidden.scalar_type() == embedding.scalar_type() && target.scalar_type() == at::kLong,
              "cross entropy: dtypes of hidden, embedding, target");
  const auto type = hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor logits = at::matmul(hidden.to(type), embedding.to(type).t());
  CrossEntropy result;
  result.loss = at::logsumexp(logits, {1}) - logits.gather(1, target.unsqueeze(1)).squeeze(1);
  result.correct = at::argmax(logits.detach(), 1) == target;
  return result;
}

}  // namespace cairn
