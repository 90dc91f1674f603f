// Checkpoints of a run (docs/formats.md):
//
//   RUN/checkpoints/step-00001000/   model.safetensors (fp32), config.json, tokenizer.model, optimizer.safetensors, state.json
//   RUN/model -> checkpoints/step-...   the newest, a folder that load_model() reads
//
// A checkpoint is written into a temporary folder, brought to the disk and renamed: it appears whole or not at all.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cairn/model/config.h"
#include "cairn/model/parameters.h"
#include "cairn/text/tokenizer.h"
#include "cairn/train/metrics.h"
#include "cairn/train/optimizer.h"

namespace cairn {

// All that a run needs besides weights and optimizer to go on as if it had never stopped.
struct RunState {
  int64_t step = 0;  // steps done
  int64_t tokens = 0;
  double seconds = 0;    // of training, over all starts
  std::string schedule;  // Schedule::to_json()
  Metrics::Sizes metrics;
  int64_t training_length = 0;  // tokens of the longest sequence of the schedule; goes with the weights, so that evaluations can name it
};

// Writes RUN/checkpoints/step-N, turns RUN/model to it and removes what need not be kept. ResourceError if it cannot be written (a full
// disk): older checkpoints are then as they were.
fs::path save_checkpoint(const fs::path& run, const RunState& state, const ModelConfig& model, const Parameters& parameters,
                         const Optimizer& optimizer, const Tokenizer& tokenizer);

// The folder of the newest checkpoint.
std::optional<fs::path> latest_checkpoint(const fs::path& run);

// Fills weights and optimizer. UserError for missing, malformed or mismatching files.
RunState load_checkpoint(const fs::path& folder, Parameters& parameters, Optimizer& optimizer);

// Deletes all but the newest `keep_last` and the multiples of `keep_every` (0: none).
void prune_checkpoints(const fs::path& run, int64_t keep_last, int64_t keep_every);

// Bytes on disk of one checkpoint.
int64_t checkpoint_bytes(const Parameters& parameters);

}  // namespace cairn
