#include <ATen/TensorOperators.h>
#include <ATen/ops/sigmoid.h>

#include "cairn/ops/require.h"
#include "cairn/ops/swiglu/swiglu.h"

namespace cairn {

at::Tensor swiglu_reference(const at::Tensor& gate, const at::Tensor& up) {
  require_sizes("swiglu", "up", up, gate.sizes(), "the shape of gate");
  require_type("swiglu", "up", up, gate.scalar_type());
  require_device("swiglu", "up", up, "gate", gate);
  const auto type = gate.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor g = gate.to(type);
  return (g * at::sigmoid(g) * up.to(type)).to(gate.scalar_type());
}

}  // namespace cairn
