// AdamW on the flat buffers, with clipping by the global norm and a guard against spikes; nothing of a step waits for the device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "cairn/model/parameters.h"
#include "cairn/train/config.h"

namespace cairn {

class Optimizer {
 public:
  Optimizer(std::shared_ptr<Parameters> parameters, const TrainOptions& options);

  // One step with the gradients that lie in the flat buffer. loss: scalar of the global batch; a non-finite loss or gradient norm, or a
  // norm above spike_factor times the running norm, leaves weights and averages as they are.
  void step(double lr, const at::Tensor& loss);

  // The same in parts. On a GPU update() reads and writes device memory that stays where it is, so it can be part of recorded work, which
  // is replayed between set_rate() and updated().
  void set_rate(double lr);
  void update(const at::Tensor& loss);
  void updated();  // tells those who keep something of the weights (WeightCache)

  // The last step's and the running numbers; waits for the device.
  struct Report {
    double norm = 0;          // gradient norm before clipping
    double running_norm = 0;  // of accepted steps; one left out lifts it a little
    int64_t accepted = 0, skipped = 0, skipped_in_row = 0;
  };
  Report report() const;

  // safetensors with the averages and the guard's state, exact.
  void save(const fs::path& file) const;
  void load(const fs::path& file);  // UserError: missing, malformed, of another model
  // Bytes of weights' averages.
  int64_t bytes() const;

 private:
  std::shared_ptr<Parameters> parameters_;
  TrainOptions options_;
  at::Tensor average_, square_;  // as Parameters::flat()
  at::Tensor updates_;           // fp32 scalar: accepted steps, AdamW's t
  at::Tensor guard_;             // fp64 [4]: running norm, accepted, skipped, skipped in a row
  at::Tensor norm_;              // fp32 scalar: of the last step
  at::Tensor rate_;              // fp32 scalar on a GPU; elsewhere lr_ counts
  double lr_ = 0;
};

}  // namespace cairn
