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

// Prints the table and returns it as CSV (columns: operator, direction, path, L, C, H, G, D, N, ms, GB/s, TFLOP/s, % of copy, % of product;
// C are chunks, of a cross-entropy words; N of a window its tokens; empty: has none). UserError where no GPU is or the program was built
// without CUDA.
std::string bench_gpu(const BenchGpuOptions& options);

}  // namespace cairn
