// What a machine has and what an evaluation takes of it: free memory, rows that fit, peaks, and clocks that wait for the device.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <optional>

#include "cairn/infer/reader.h"

namespace cairn {

int64_t free_memory(at::Device device);  // bytes

// Rows of `length` tokens that are worth reading together, 1 .. wanted: the matrix products are full from a few rows on; more than a
// quarter of the free memory is not taken for it.
int64_t rows_that_fit(const Reader& reader, int64_t wanted, int64_t length);
// ResourceError with the numbers, of the GPU and of the host, if `rows` states of `length` tokens and the work on them do not fit.
void require_memory(const Reader& reader, int64_t rows, int64_t length);

// Of the caching allocator of a GPU, in bytes; nothing on a CPU.
struct DeviceMemory {
  int64_t current = 0, peak = 0;
};
std::optional<DeviceMemory> device_memory(at::Device device);
void reset_peak_memory(at::Device device);  // the peak then starts from what is held now

// Seconds between laps, with everything that was queued on the device done.
class Stopwatch {
 public:
  explicit Stopwatch(at::Device device);
  double lap();  // since construction or the last lap

 private:
  at::Device device_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace cairn
