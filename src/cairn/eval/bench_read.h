// How fast a text is read (lower half and chunk encoder), against what the matrix products inside it reach in the same run.
#pragma once

#include <cstdint>
#include <string>

#include "cairn/model/config.h"

namespace cairn {

struct BenchReadOptions {
  std::string model;  // model folder, a TOML configuration with a [model] table, or empty: the 7M preset
  int64_t tokens = int64_t{1} << 20;
  std::string precision = "bf16";  // fp32 | bf16
  std::string device = "cpu";
  std::string landmark_dtype = "auto", kv_dtype = "auto";  // as in OpenOptions
  int threads = 0;                                         // 0: as they are
  int64_t segment = 0;                                     // 0: the reader's own
  std::string memory_on = "device";                        // device | host (pinned; on a GPU only): where keys and values come to lie
  std::string json;                                        // file for the result; empty: none
};

// "" or "7m": the preset whose reading speed is a figure of the project; else the configuration of a model folder.
ModelConfig bench_model(const std::string& name);

// Reads random tokens, prints seconds, tokens/s, FLOPs, the product rate at the reader's own shapes, their ratio and the peak memory.
// Several processes (World::from_environment) read a part each. Returns the exit code.
int bench_read(const BenchReadOptions& options);

}  // namespace cairn
