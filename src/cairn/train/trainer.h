// The training loop as a function: `cairn train` and `cairn demo` call it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cairn/core/files.h"
#include "cairn/dist/world.h"
#include "cairn/train/config.h"

namespace cairn {

struct TrainRun {
  fs::path folder;             // the run folder; made if absent. Not used by rehearsals
  bool resume = false;         // go on from the newest checkpoint in it (from nothing if there is none)
  std::string device = "cpu";  // cpu | cuda
  int64_t threads = 0;         // of tensor operations; 0: as they are
  bool quiet = false;          // nothing on the terminal
  int64_t stop_after = 0;      // end, saved and resumable, once so many steps are done; 0: never
  std::shared_ptr<World> world = World::single();
};

struct TrainResult {
  std::string ended;      // "finished" | "stopped" (signal or stop_after) | "no skill at a gate" | "diverged"
  std::string diagnosis;  // for the last two: what was seen and what usually helps
  int64_t steps = 0, tokens = 0;
  double seconds = 0;  // of training, over all starts
  double loss = 0;     // at the last log point
  std::map<std::string, double> skill;
  std::vector<double> recall;  // per retrieval
  fs::path model;              // folder for load_model()
  bool good() const { return ended == "finished" || ended == "stopped"; }
};

// Trains and returns. Writes into run.folder (docs/formats.md). SIGTERM and SIGINT end it after the step, saved.
// UserError: configuration, files, a folder that is in use or holds a run already. ResourceError: memory or disk.
TrainResult train(const TrainConfig& config, const TrainRun& run);

// The configuration in RUN/config.toml must agree with `config` in all that shapes the result. UserError naming what differs.
void check_same_config(const fs::path& file, const TrainConfig& config);

}  // namespace cairn
