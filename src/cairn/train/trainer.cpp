// The training loop. Reads top to bottom: open what the run is made of, say what will happen, go on from a checkpoint, then
// loop {step, log, evaluate, save}.
#include "cairn/train/trainer.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <c10/core/DeviceGuard.h>

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "cairn/core/error.h"
#include "cairn/core/progress.h"
#include "cairn/train/checkpoint.h"
#include "cairn/train/estimate.h"
#include "cairn/train/journal.h"
#include "cairn/train/setup.h"
#include "cairn/train/step.h"
#include "cairn/train/train_step.h"

namespace cairn {
namespace {

std::string summary(const TrainConfig& config, const TrainRun& run, const Parameters& parameters, at::Device device,
                    const RunState& state) {
  const MemoryEstimate memory = estimate_memory(config, run.world->size());
  std::string text = fmt::format(
      "training {:.2f}M parameters on {} ({} threads, {}{}): {:.2f}M tokens in steps of {}, about {} of memory\nrun folder {}",
      static_cast<double>(parameters.count()) / 1e6, device.str(), at::get_num_threads(), config.train.precision,
      run.world->size() > 1 ? fmt::format(", {} processes", run.world->size()) : "", static_cast<double>(config.train.tokens) / 1e6,
      config.train.batch_tokens, format_bytes(static_cast<double>(memory.total())), run.folder.string());
  if (state.step > 0) text += fmt::format(", going on from step {} ({:.2f}M tokens)", state.step, static_cast<double>(state.tokens) / 1e6);
  return text;
}

std::string config_toml(TrainConfig config) {
  OptionTable table;
  config.declare(table);
  return table.to_toml(false);
}

std::string config_json(TrainConfig config) {
  OptionTable table;
  config.declare(table);
  return table.to_json();
}

// A finished checkpoint's model is read with the alpha and beta it was last trained with.
ModelConfig model_now(const TrainConfig& config, const Moment& moment) {
  ModelConfig model = config.model;
  model.alpha = moment.alpha;
  model.beta = moment.beta;
  return model;
}

}  // namespace

TrainResult train(const TrainConfig& config, const TrainRun& run) {
  using Clock = std::chrono::steady_clock;
  const auto elapsed = [](Clock::time_point since) { return std::chrono::duration<double>(Clock::now() - since).count(); };
  const TrainOptions& options = config.train;
  World& world = *run.world;
  const bool first = world.rank() == 0;

  // What the run is made of.
  config.validate();
  if (run.threads > 0) at::set_num_threads(static_cast<int>(run.threads));
  const at::Device device = open_device(run.device);
  const c10::OptionalDeviceGuard guard(device.is_cuda() ? std::optional<at::Device>(device) : std::nullopt);
  if (options.precision == "bf16") at::globalContext().setAllowTF32CuBLAS(true);
  const Materials materials = open_materials(config);
  require_memory(config, world.size(), device);
  std::optional<FolderLock> lock;
  if (first) {
    std::error_code error;
    fs::create_directories(run.folder, error);
    if (error) throw UserError("{}: the run folder cannot be made: {}", run.folder.string(), error.message());
    lock.emplace(run.folder);
  }
  world.barrier();
  const auto checkpoint = latest_checkpoint(run.folder);
  if (!run.resume && (checkpoint || fs::exists(run.folder / kMetricsFile))) {
    throw UserError("{} holds a run already; continue it with --resume, or choose another folder", run.folder.string());
  }
  const std::shared_ptr<Model> model = make_model(config, device);
  Parameters& parameters = *model->parameters();
  Optimizer optimizer(model->parameters(), options);
  if (first) require_free_space(run.folder, 2 * checkpoint_bytes(parameters), "the run's checkpoints");

  // Where it stands: at the start, or where the newest checkpoint left it.
  Schedule schedule(config);
  RunState state;
  if (checkpoint) {
    check_same_config(run.folder / "config.toml", config);
    state = load_checkpoint(*checkpoint, parameters, optimizer);
    schedule.restore(state.schedule, (*checkpoint / "state.json").string());
  } else if (first) {
    write_file(run.folder / "config.toml", config_toml(config));
  }
  Journal journal(first ? std::make_unique<Metrics>(run.folder, state.metrics) : nullptr, run.quiet || !first);
  journal.start(config_json(config), environment_json(device), state.step, summary(config, run, parameters, device, state));
  install_stop_handler();
  BatchLoader loader(materials.tasks, batch_plan(config, materials, world, device));
  TrainStep steps(model, &optimizer, config, run.world, device);

  TrainResult result;
  Journal::Position at;
  const double seconds_before = state.seconds;
  const Clock::time_point begin = Clock::now();
  Clock::time_point last_step = begin, last_log = begin;
  int64_t tokens_at_log = state.tokens, skipped_seen = optimizer.report().skipped,
          phase = state.step == 0 ? -1 : schedule.at(state.step).phase;
  double clock_at_log = schedule.clock();
  Moment moment = schedule.at(state.step);

  const auto stand = [&] {
    at.step = state.step;
    at.tokens = state.tokens;
    at.seconds = state.seconds = seconds_before + elapsed(begin);
    at.clock = schedule.clock();
    at.waiting = schedule.waiting();
  };
  const auto save = [&] {
    if (!first) return;
    stand();
    journal.save(at, fmt::format("step-{:08d}", state.step));
    journal.sync();
    state.schedule = schedule.to_json();
    state.metrics = journal.sizes();
    state.training_length = config.longest();
    save_checkpoint(run.folder, state, model_now(config, moment), parameters, optimizer, *materials.tokenizer);
    prune_checkpoints(run.folder, options.keep_last, options.keep_every);
  };
  const auto validate = [&] {
    if (!materials.validation) return;
    const double loss = validation_loss(*model, *materials.validation, moment, compute_type(config), options.validation_tokens,
                                        options.batch_tokens, device, world);
    stand();
    journal.validation(at, loss, options.validation_tokens);
  };

  while (!schedule.finished()) {
    moment = schedule.at(state.step);
    if (moment.phase != phase) {
      stand();
      journal.phase(at, moment);
      phase = moment.phase;
    }

    // Step.
    const StepLosses& losses = steps.run(loader.next(state.step, moment.length), moment);
    ++state.step;
    state.tokens += loader.sequences(moment.length) * world.size() * moment.length;

    // The first process's watch and any process's stop signal hold for all.
    double step_seconds = elapsed(last_step);
    bool stop = stop_requested();
    if (world.size() > 1) {
      at::Tensor shared = at::full({2}, 0.0, at::kDouble);
      shared.data_ptr<double>()[0] = first ? step_seconds : 0;
      shared.data_ptr<double>()[1] = stop ? 1 : 0;
      world.all_reduce_sum(shared);
      step_seconds = shared.data_ptr<double>()[0];
      stop = shared.data_ptr<double>()[1] > 0;
    }
    last_step = Clock::now();
    schedule.advance(loader.sequences(moment.length) * world.size() * moment.length, step_seconds);

    // Log: the only place that waits for the device.
    if (state.step % options.log_every == 0 || schedule.finished()) {
      const Measurement measured = measure(losses, steps.batch(), materials.task_names, config.model, world);
      const Optimizer::Report report = optimizer.report();
      const double interval = elapsed(last_log);
      last_log = Clock::now();
      stand();
      at.tokens_per_second = static_cast<double>(state.tokens - tokens_at_log) / std::max(interval, 1e-9);
      const double pace = (schedule.clock() - clock_at_log) / std::max(interval, 1e-9);
      at.seconds_left = pace > 0 ? (1 - schedule.clock()) / pace : -1;
      tokens_at_log = state.tokens;
      clock_at_log = schedule.clock();
      journal.step(at, moment, measured, report);
      result.loss = measured.loss;
      result.skill = measured.skill;
      result.recall.clear();
      for (const auto& recall : measured.recall) result.recall.push_back(recall[0]);
      if (report.skipped > skipped_seen) journal.spike(at, report.skipped, report.norm, report.running_norm);
      skipped_seen = report.skipped;
      if (report.skipped_in_row >= options.spike_limit) {
        result.ended = "diverged";
        result.diagnosis = fmt::format(
            "the last {} steps were left out for non-finite or outlying gradients (norm {:.3g}, running norm {:.3g}). A smaller train.lr, "
            "a longer "
            "warm-up or model.landmark_norm = true usually help; resume from an older checkpoint",
            report.skipped_in_row, report.norm, report.running_norm);
        break;
      }
      const std::string opened = schedule.measure(measured.point());
      if (!opened.empty()) journal.gate(at, opened, "opened");
      if (schedule.wait_exceeded()) {
        const std::string diagnosis = schedule.diagnosis();
        if (options.gate_bound == "stop") {
          journal.gate(at, diagnosis, "failed");
          result.ended = "no skill at a gate";
          result.diagnosis = diagnosis;
          break;
        }
        schedule.pass_gate();
        journal.gate(at, diagnosis + ". Going on without it (gate_bound)", "passed");
      }
    }

    // Evaluate, save, stop.
    if (schedule.finished()) break;
    if (options.validate_every > 0 && state.step % options.validate_every == 0) validate();
    if (stop || (run.stop_after > 0 && state.step >= run.stop_after)) {
      result.ended = "stopped";
      break;
    }
    if (options.save_every > 0 && state.step % options.save_every == 0) save();
  }
  if (result.ended.empty()) {
    result.ended = "finished";
    validate();
  }
  save();
  stand();
  journal.end(at, result.ended);
  if (!result.diagnosis.empty()) journal.say(result.diagnosis);
  world.barrier();

  result.steps = state.step;
  result.tokens = state.tokens;
  result.seconds = state.seconds;
  result.model = run.folder / "model";
  return result;
}

void check_same_config(const fs::path& file, const TrainConfig& config) {
  // What may change between starts: it does not shape the result, or only how far the run goes.
  static const std::vector<std::string> kFree = {"max_minutes",       "data_threads", "log_every",  "validate_every", "save_every",
                                                 "validation_tokens", "keep_last",    "keep_every", "gate_bound",     "gate_tokens"};
  TrainConfig before;
  OptionTable table;
  before.declare(table);
  table.load_toml(file);
  const auto strip = [](const std::string& text) {
    auto json = nlohmann::json::parse(text);
    for (const auto& name : kFree) json["train"].erase(name);
    return json.flatten();
  };
  const auto old_values = strip(table.to_json()), new_values = strip(config_json(config));
  std::string differences;
  for (const auto& [name, value] : new_values.items()) {
    const bool same = old_values.contains(name) && old_values[name] == value;
    if (!same)
      differences +=
          fmt::format("\n  {}: was {}, is {}", name, old_values.contains(name) ? old_values[name].dump() : "absent", value.dump());
  }
  for (const auto& [name, value] : old_values.items()) {
    if (!new_values.contains(name)) differences += fmt::format("\n  {}: was {}, is absent", name, value.dump());
  }
  if (!differences.empty()) {
    throw UserError("the configuration differs from that of the run to be resumed ({}):{}\nResume with the same values, or start a new run",
                    file.string(), differences);
  }
}

}  // namespace cairn
