// Agreement with an independent statement of the algorithm: cases in safetensors files (inputs, parameters, outputs, gradients; settings as
// JSON in the metadata under "config"; format in docs/formats.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cairn/core/files.h"

namespace cairn {

struct OracleResult {
  std::string name;                          // file name without suffix
  double output_error = 0;                   // worst |a - b| / (2e-5 + 1e-4 |b|) over all outputs: agrees when <= 1
  double gradient_error = 0;                 // worst |a - b| / (1e-4 + 1e-3 |b|) over all gradients
  std::string worst_output, worst_gradient;  // tensor names
  std::string failure;                       // non-empty: the case could not be read or run
  bool agrees() const { return failure.empty() && output_error <= 1 && gradient_error <= 1; }
};

// Runs one case in fp32 on the CPU.
OracleResult run_oracle_case(const fs::path& file);
// Every *.safetensors file of the folder, by name. UserError if there is none.
std::vector<OracleResult> run_oracle(const fs::path& folder);

}  // namespace cairn
