// The JSON file of an evaluation (docs/evaluation.md), read by `cairn report`, and the table printed at the end.
#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cairn/eval/evaluate.h"

namespace cairn {

struct EvalHeader {
  std::string model, fingerprint, haystack, command, created;
  uint64_t seed = 1;
  std::optional<int64_t> training_length;
  at::Device device = at::kCPU;
  at::ScalarType compute = at::kFloat;
  EightBit eight_bit;
};

std::string utc_now();       // "2026-11-21T22:30:00Z"
std::string command_line();  // of this process, arguments quoted where needed
// What every result file starts with: versions, model, machine, command.
nlohmann::ordered_json header_json(const EvalHeader& header, const ModelConfig& config, const std::string& kind);
std::string eval_json(const EvalHeader& header, const ModelConfig& config, const std::vector<EvalCell>& cells);
std::string eval_table(const std::vector<EvalCell>& cells);

}  // namespace cairn
