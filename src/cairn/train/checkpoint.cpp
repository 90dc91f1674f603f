#include "cairn/train/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "cairn/core/error.h"

namespace cairn {
namespace {

constexpr const char* kFolder = "checkpoints";
constexpr const char* kPrefix = "step-";
constexpr const char* kTemporary = ".writing";
constexpr int64_t kStateVersion = 1;

void sync_folder(const fs::path& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  fsync(descriptor);
  close(descriptor);
}

// Steps of the complete checkpoints, rising.
std::vector<int64_t> checkpoint_steps(const fs::path& run) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run / kFolder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix) || !entry.is_directory()) continue;
    int64_t step = 0;
    const char* begin = name.data() + std::strlen(kPrefix);
    const auto [end, wrong] = std::from_chars(begin, name.data() + name.size(), step);
    if (wrong == std::errc() && end == name.data() + name.size()) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

fs::path checkpoint_path(const fs::path& run, int64_t step) { return run / kFolder / fmt::format("{}{:08d}", kPrefix, step); }

std::string state_json(const RunState& state) {
  nlohmann::json json;
  json["version"] = kStateVersion;
  json["step"] = state.step;
  json["tokens"] = state.tokens;
  json["seconds"] = state.seconds;
  json["schedule"] = nlohmann::json::parse(state.schedule);
  json["metrics_bytes"] = state.metrics.metrics;
  json["events_bytes"] = state.metrics.events;
  return json.dump(2) + "\n";
}

void write_all(const fs::path& folder, const RunState& state, const ModelConfig& model, const Parameters& parameters,
               const Optimizer& optimizer, const Tokenizer& tokenizer) {
  save_weights(
      folder / "model.safetensors", parameters, at::kFloat,
      {{"format", "cairn.model"}, {"step", std::to_string(state.step)}, {"training_length", std::to_string(state.training_length)}});
  write_file(folder / "config.json", model.to_json());
  write_file(folder / "tokenizer.model", tokenizer.serialized());
  optimizer.save(folder / "optimizer.safetensors");
  write_file(folder / "state.json", state_json(state));
}

// The link is replaced by a rename, so that RUN/model always leads to a whole checkpoint.
void turn_link(const fs::path& run, const fs::path& target) {
  const fs::path fresh = run / ".model-link";
  fs::remove(fresh);
  fs::create_directory_symlink(target, fresh);
  fs::rename(fresh, run / "model");
  sync_folder(run);
}

}  // namespace

int64_t checkpoint_bytes(const Parameters& parameters) { return 3 * 4 * parameters.count() + (int64_t{4} << 20); }

fs::path save_checkpoint(const fs::path& run, const RunState& state, const ModelConfig& model, const Parameters& parameters,
                         const Optimizer& optimizer, const Tokenizer& tokenizer) {
  const fs::path folder = run / kFolder, temporary = folder / kTemporary, target = checkpoint_path(run, state.step);
  require_free_space(run, checkpoint_bytes(parameters), "a checkpoint");
  try {
    fs::create_directories(folder);
    fs::remove_all(temporary);
    fs::create_directory(temporary);
    write_all(temporary, state, model, parameters, optimizer, tokenizer);
    sync_folder(temporary);
    fs::remove_all(target);  // of the same step: only a run that went back to an older checkpoint finds one
    fs::rename(temporary, target);
    sync_folder(folder);
    turn_link(run, fs::path(kFolder) / target.filename());
  } catch (const std::exception& error) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    const auto last = latest_checkpoint(run);
    throw ResourceError(
        "the checkpoint of step {} could not be written ({}). {}. Make room or repair the disk, then continue with --resume", state.step,
        error.what(), last ? "The last good one is " + last->string() : "There is none before it");
  }
  return target;
}

std::optional<fs::path> latest_checkpoint(const fs::path& run) {
  const auto steps = checkpoint_steps(run);
  if (steps.empty()) return std::nullopt;
  return checkpoint_path(run, steps.back());
}

RunState load_checkpoint(const fs::path& folder, Parameters& parameters, Optimizer& optimizer) {
  RunState state;
  const fs::path file = folder / "state.json";
  try {
    const auto json = nlohmann::json::parse(read_file(file, 1 << 24));
    const int64_t version = json.at("version").get<int64_t>();
    if (version != kStateVersion) throw UserError("{}: version {}; this program reads version {}", file.string(), version, kStateVersion);
    state.step = json.at("step").get<int64_t>();
    state.tokens = json.at("tokens").get<int64_t>();
    state.seconds = json.at("seconds").get<double>();
    state.schedule = json.at("schedule").dump();
    state.metrics.metrics = json.at("metrics_bytes").get<int64_t>();
    state.metrics.events = json.at("events_bytes").get<int64_t>();
  } catch (const nlohmann::json::exception& error) {
    throw UserError("{}: not a state of a run ({}). Remove this checkpoint's folder to resume from the one before it", file.string(),
                    error.what());
  }
  if (state.step < 0 || state.tokens < 0 || !(state.seconds >= 0) || state.metrics.metrics < 0 || state.metrics.events < 0) {
    throw UserError("{}: negative numbers", file.string());
  }
  load_weights(folder / "model.safetensors", parameters);
  optimizer.load(folder / "optimizer.safetensors");
  return state;
}

void prune_checkpoints(const fs::path& run, int64_t keep_last, int64_t keep_every) {
  const auto steps = checkpoint_steps(run);
  const int64_t count = static_cast<int64_t>(steps.size());
  for (int64_t i = 0; i < count - std::max<int64_t>(keep_last, 1); ++i) {
    if (keep_every > 0 && steps[i] % keep_every == 0) continue;
    // Renamed first: a checkpoint that is half deleted must not look whole.
    const fs::path going = run / kFolder / ".removing";
    std::error_code ignored;
    fs::remove_all(going, ignored);
    fs::rename(checkpoint_path(run, steps[i]), going, ignored);
    fs::remove_all(going, ignored);
  }
}

}  // namespace cairn
