// cairn bench train: tokens per second of the training step in every phase of a configuration, all processes together, and where a step's
// time goes on a GPU.
#pragma once

#include <string>

#include "cairn/train/trainer.h"

namespace cairn {

struct BenchTrainOptions {
  int64_t steps = 10;    // timed, after three that are not; on a GPU queued one ahead, as training does
  bool kernels = false;  // also the time of every kind of kernel (GPU; steps of their own, for watching slows them down)
  int64_t rows = 25;     // of that table
  double peak = 0;       // TFLOP/s that the device is said to reach: utilisation is told against it
  std::string json;
};

// Prints a table; nothing is trained or kept. UserError and ResourceError as a training run would have them.
void bench_train(const TrainConfig& config, const TrainRun& run, const BenchTrainOptions& options);

}  // namespace cairn
