#include <ATen/TensorOperators.h>
#include <ATen/ops/sigmoid.h>

#include "cairn/core/error.h"
#include "cairn/ops/swiglu/swiglu.h"

namespace cairn {

at::Tensor swiglu_reference(const at::Tensor& gate, const at::Tensor& up) {
  CAIRN_CHECK(gate.sizes() == up.sizes() && gate.scalar_type() == up.scalar_type(), "swiglu: gate and up differ in shape or dtype");
  const auto type = gate.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor g = gate.to(type);
  return (g * at::sigmoid(g) * up.to(type)).to(gate.scalar_type());
}

}  // namespace cairn
