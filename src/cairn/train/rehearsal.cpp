#include "cairn/train/rehearsal.h"

#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>

#include "cairn/core/error.h"
#include "cairn/eval/resources.h"
#include "cairn/train/estimate.h"
#include "cairn/train/journal.h"
#include "cairn/train/stage.h"

namespace cairn {
void dry_run(const TrainConfig& config, const TrainRun& run) {
  Stage stage(config, run);
  const MemoryEstimate memory = estimate_memory(config, 1);
  const auto bytes = [](int64_t n) { return format_bytes(static_cast<double>(n)); };
  fmt::print("parameters   {:.3f}M\n", static_cast<double>(config.model.parameter_count()) / 1e6);
  fmt::print("memory       {} of {} free on {}: weights {}, gradients {}, optimizer {}, activations of a step {}\n", bytes(memory.total()),
             bytes(free_memory(stage.device)), stage.device.str(), bytes(memory.weights), bytes(memory.gradients), bytes(memory.optimizer),
             bytes(memory.activations));
  fmt::print("tokens       {} in steps of {}{}\n", config.train.tokens, config.train.batch_tokens,
             config.train.gates.empty()
                 ? ""
                 : fmt::format(", and up to {} more at each of {} gates", config.train.gate_tokens, config.train.gates.size()));
  std::fflush(stdout);
  require_memory(config, 1, stage.device);
  stage.build(config);

  // One step to warm up and one to time, for every phase. On a CPU a part of a batch shows the speed as well as a whole one.
  double begin = 0, seconds = 0;
  for (const Phase& phase : config.phases()) {
    const Moment moment = moment_of(config, phase, begin);
    const int64_t all = config.train.batch_tokens / phase.length;
    const int64_t sequences = stage.device.is_cpu() ? std::min(all, std::max<int64_t>(1, 8192 / phase.length)) : all;
    const Batch batch = stage.batch(config, sequences, phase.length);
    stage.step(batch, moment);
    const auto start = std::chrono::steady_clock::now();
    stage.step(batch, moment);
    const double step_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double rate = static_cast<double>(sequences * phase.length) / step_seconds;
    const double tokens = (phase.end - begin) * static_cast<double>(config.train.tokens);
    seconds += tokens / rate;
    fmt::print("phase        {} tokens a sequence, top_k {}: {:.0f} tokens/s, {:.2f}M tokens in {}\n", phase.length,
               phase.top_k == Phase::kAllChunks ? "all" : std::to_string(phase.top_k), rate, tokens / 1e6, format_duration(tokens / rate));
    std::fflush(stdout);
    begin = phase.end;
  }
  fmt::print(
      "time         about {} on {} with {} threads{}\n", format_duration(seconds), stage.device.str(), at::get_num_threads(),
      config.train.max_minutes > 0 ? fmt::format(", ended by the watch after {}", format_duration(60 * config.train.max_minutes)) : "");
  fmt::print("Nothing was trained or written (--dry-run).\n");
}

Overfit overfit_one_batch(const TrainConfig& config, const TrainRun& run, int64_t max_steps) {
  constexpr int64_t kSequences = 4;
  Stage stage(config, run);
  require_memory(config, 1, stage.device);
  stage.build(config);
  Schedule schedule(config);
  Moment moment = schedule.at(config.train.warmup_steps);
  const Batch batch = stage.batch(config, std::min(kSequences, config.train.batch_tokens / moment.length), moment.length);
  Overfit result;
  const double peak = moment.lr;
  for (; result.steps < max_steps; ++result.steps) {
    moment.lr = peak * std::min(1.0, static_cast<double>(result.steps + 1) / 20);
    result.last_loss = stage.step(batch, moment);
    if (result.steps == 0) {
      result.first_loss = result.last_loss;
      result.bound = 0.1 * result.first_loss;
    }
    if (result.good()) break;
  }
  return result;
}

}  // namespace cairn
