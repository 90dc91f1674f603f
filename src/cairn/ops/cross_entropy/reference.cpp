#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>

#include "cairn/ops/cross_entropy/check.h"
#include "cairn/ops/cross_entropy/cross_entropy.h"

namespace cairn {

CrossEntropy linear_cross_entropy_reference(const at::Tensor& hidden, const at::Tensor& embedding, const at::Tensor& target) {
  check_cross_entropy(hidden, embedding, target);
  const auto type = hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor logits = at::matmul(hidden.to(type), embedding.to(type).t());
  CrossEntropy result;
  result.loss = at::logsumexp(logits, {1}) - logits.gather(1, target.unsqueeze(1)).squeeze(1);
  result.correct = at::argmax(logits.detach(), 1) == target;
  return result;
}

}  // namespace cairn
