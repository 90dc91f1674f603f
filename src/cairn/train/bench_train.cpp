#include "cairn/train/bench_train.h"

#include <fmt/format.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "cairn/core/files.h"
#include "cairn/eval/resources.h"
#include "cairn/train/stage.h"

namespace cairn {
namespace {

constexpr int64_t kWarmUp = 3, kWatched = 3;

struct KernelTime {
  double seconds = 0;  // of all steps that were watched
  int64_t calls = 0;
};

// What one of ATen's element by element kernels does, which stands among its template arguments: the first word of the kind
// CUDAFunctor_add or direct_copy_kernel_cuda. Empty: there is none.
std::string operation(const std::string& name) {
  if (name.find("at::native") == std::string::npos) return "";
  std::string word;
  for (const char c : name + " ") {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_') {
      word += c;
      continue;
    }
    if (word.find("Functor") != std::string::npos || word.find("_kernel_cuda") != std::string::npos) return word;
    word.clear();
  }
  return "";
}

// The name without its template arguments and parameters.
std::string short_name(const std::string& name) {
  std::string out;
  int depth = 0;
  for (const char c : name) {
    if (c == '<') ++depth;
    if (depth == 0 && c == '(') {
      if (name.compare(0, 1, "(") != 0 && out.find("anonymous") == std::string::npos && !out.empty() && out.back() != ':') break;
    }
    if (depth == 0) out += c;
    if (c == '>') --depth;
  }
  if (out.size() > 100) out.resize(100);
  const std::string what = operation(name);
  return what.empty() ? out : out + ": " + what;
}

template <typename Step>
std::map<std::string, KernelTime> watch(const Step& step) {
  namespace profiler = torch::autograd::profiler;
  const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO);
  const std::set<profiler::ActivityType> activities = {profiler::ActivityType::CUDA};
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(config, activities);
  for (int64_t i = 0; i < kWatched; ++i) step();
  const auto result = profiler::disableProfiler();  // holds the events
  std::map<std::string, KernelTime> times;
  for (const auto& event : result->events()) {
    if (event.deviceType() != c10::DeviceType::CUDA) continue;
    KernelTime& time = times[short_name(event.name())];
    time.seconds += static_cast<double>(event.durationNs()) * 1e-9;
    ++time.calls;
  }
  return times;
}

nlohmann::json print_kernels(const std::map<std::string, KernelTime>& times, int64_t rows) {
  std::vector<std::pair<std::string, KernelTime>> sorted(times.begin(), times.end());
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  double total = 0;
  int64_t calls = 0;
  for (const auto& [name, time] : sorted) total += time.seconds, calls += time.calls;
  nlohmann::json json = nlohmann::json::array();
  fmt::print("    {:>9}  {:>6}  {:>7}\n", "ms a step", "share", "calls");
  fmt::print("    {:>9.3f}  {:>5.1f}%  {:>7.1f}  all kernels\n", total / kWatched * 1e3, 100.0, static_cast<double>(calls) / kWatched);
  for (const auto& [name, time] : sorted) {
    json.push_back({{"name", name}, {"seconds", time.seconds / kWatched}, {"calls", static_cast<double>(time.calls) / kWatched}});
    if (static_cast<int64_t>(json.size()) <= rows)
      fmt::print("    {:>9.3f}  {:>5.1f}%  {:>7.1f}  {}\n", time.seconds / kWatched * 1e3, 100 * time.seconds / total,
                 static_cast<double>(time.calls) / kWatched, name);
  }
  return json;
}

}  // namespace

void bench_train(const TrainConfig& config, const TrainRun& run, const BenchTrainOptions& options) {
  Stage stage(config, run);
  World& world = *stage.world;
  require_memory(config, world.size(), stage.device);
  if (world.size() > 1) batch_plan(config, stage.materials, world, stage.device);  // refuses what cannot be dealt out
  const bool first = world.rank() == 0;
  if (options.kernels && !stage.device.is_cuda()) throw UserError("--kernels needs --device cuda");
  stage.build(config);
  nlohmann::json report = {{"device", stage.device.str()},
                           {"batch_tokens", config.train.batch_tokens},
                           {"processes", world.size()},
                           {"phases", nlohmann::json::array()}};
  if (first) {
    fmt::print("{:.2f}M parameters, {} tokens a step{}, {}, {}; median of {} steps\n",
               static_cast<double>(config.model.parameter_count()) / 1e6, config.train.batch_tokens,
               world.size() > 1 ? fmt::format(" of {} processes", world.size()) : "", config.train.precision, stage.device.str(),
               options.steps);
    fmt::print("{:>8} {:>6} {:>12} {:>10} {:>10} {:>10} {:>8} {:>12}\n", "length", "top_k", "tokens/s", "ms a step", "fastest", "memory",
               "TFLOP/s", "utilisation");
  }
  double begin = 0;
  for (const Phase& phase : config.phases()) {
    const Moment moment = moment_of(config, phase, begin);
    begin = phase.end;
    const Batch batch = stage.batch(config, std::max<int64_t>(1, config.train.batch_tokens / phase.length / world.size()), phase.length);
    reset_peak_memory(stage.device);
    world.barrier();
    for (int64_t i = 0; i < kWarmUp; ++i) stage.step(batch, moment);
    std::vector<double> seconds = stage.time_steps(batch, moment, options.steps);
    std::sort(seconds.begin(), seconds.end());
    const double median = seconds[seconds.size() / 2], rate = static_cast<double>(batch.tokens.numel() * world.size()) / median;
    const auto memory = device_memory(stage.device);
    // Of one process: FLOP a second and memory.
    const int64_t sequences = batch.tokens.size(0) * world.size();
    const double flops = training_flops(config, phase, sequences) * rate / static_cast<double>(world.size());
    if (first)
      fmt::print("{:>8} {:>6} {:>12.0f} {:>10.2f} {:>10.2f} {:>10} {:>8.1f} {:>12}\n", phase.length,
                 phase.top_k == Phase::kAllChunks ? "all" : std::to_string(phase.top_k), rate, median * 1e3, seconds.front() * 1e3,
                 memory ? format_bytes(static_cast<double>(memory->peak)) : "-", flops * 1e-12,
                 options.peak > 0 ? fmt::format("{:.1f}%", flops * 1e-10 / options.peak) : "-");
    std::fflush(stdout);
    nlohmann::json line = {
        {"length", phase.length}, {"top_k", phase.top_k}, {"seconds", median}, {"fastest", seconds.front()}, {"tokens_per_second", rate}};
    line["flops_per_second"] = flops;
    line["recorded"] = stage.steps->recorded();  // as a CUDA graph
    if (memory) line["peak_bytes"] = memory->peak;
    if (options.kernels) {
      const auto times = watch([&] { stage.step(batch, moment); });
      if (first) line["kernels"] = print_kernels(times, options.rows);
    }
    report["phases"].push_back(std::move(line));
  }
  if (first && !options.json.empty()) write_file(options.json, report.dump(1) + "\n");
}

}  // namespace cairn
