// What a memory costs once it is read: editing, asking, decoding, saving and loading, beside the figures that the project asks of itself.
#pragma once

#include <cstdint>
#include <string>

namespace cairn {

struct BenchMemoryOptions {
  std::string model;  // model folder, or empty: the 7M preset of bench_read.h with random weights
  int64_t tokens = int64_t{1} << 20, short_tokens = 4096;
  std::string precision = "bf16";  // fp32 | bf16
  std::string device = "cpu";
  std::string landmark_dtype = "auto", kv_dtype = "auto";  // as in OpenOptions
  int threads = 0;
  int64_t turns = 20;  // edits, decoded tokens times ten
  std::string folder;  // where the memory file is written and removed again; empty: the system's folder for temporary files
  std::string json;
};

// Several processes (World::from_environment) share the memory; then no file is written, and the logits behind the text are compared with
// those of one process, where that has room for all of it.
// Reads random tokens into a memory file, edits 30 tokens at random places (and restores them, bit by bit), decodes behind the long text
// and behind a short one, in main memory and mapped; prints medians and ranges. Returns the exit code.
int bench_memory(const BenchMemoryOptions& options);

}  // namespace cairn
