// One table of operators (`cairn check`): every fast path against its reference on fresh random inputs, values and gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace cairn {

struct OperatorCheck {
  std::string name, shape, dtype;
  std::string worst;    // "output 0", "gradient of input 2"
  double error = 0;     // max |fast - reference in higher precision| of the worst tensor
  double allowed = 0;   // 2 max |reference in the dtype - reference in higher precision| + tiny (docs/architecture.md, manner 3)
  std::string failure;  // non-empty: threw
  bool ok() const { return failure.empty() && error <= allowed; }
};

// Every operator, `rounds` random shapes each, fp32 and bf16, on `device`; the comparison runs on the same device in fp64 (fp32 inputs) or
// fp32 (bf16).
std::vector<OperatorCheck> check_operators(at::Device device, uint64_t seed, int64_t rounds);

}  // namespace cairn
