// Trying a run out before it is run: what it needs (dry run), and whether the network can learn at all (one batch over and over).
#pragma once

#include "cairn/train/trainer.h"

namespace cairn {

// Prints parameters, memory, tokens, steps and, after timing a step of every phase, the time that the run would take. Trains nothing,
// writes nothing.
void dry_run(const TrainConfig& config, const TrainRun& run);

struct Overfit {
  double first_loss = 0, last_loss = 0, bound = 0;  // cross-entropy; bound = a tenth of the first
  int64_t steps = 0;
  bool good() const { return last_loss < bound; }
};
// Trains on one batch of a few sequences until its loss falls below the bound, for at most `max_steps` steps. Writes nothing.
Overfit overfit_one_batch(const TrainConfig& config, const TrainRun& run, int64_t max_steps = 400);

}  // namespace cairn
