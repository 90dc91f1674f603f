// cairn bench ops --device cuda: the operators on a GPU beside what the same GPU reaches in a copy and in a matrix product.
#pragma once

#include <cstdint>
#include <string>

namespace cairn {

struct BenchGpuOptions {
  std::string json;     // also write the table there, if not empty
  std::string only;     // lines whose name or shape contains this; empty: all
  int64_t rounds = 21;  // measured turns; medians are shown
};

// Prints the table. UserError where no GPU is or the program was built without CUDA.
int bench_gpu(const BenchGpuOptions& options);

}  // namespace cairn
