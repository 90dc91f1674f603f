#include "cairn/eval/eval_json.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/format.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <fstream>
#include <iterator>
#include <sstream>
#include <thread>

#include "cairn/core/files.h"
#include "cairn/core/json.h"
#include "cairn/eval/statistics.h"

namespace cairn {
namespace {

using Json = nlohmann::ordered_json;

std::string processor() {
  std::ifstream in("/proc/cpuinfo");
  std::string line;
  while (std::getline(in, line)) {
    if (!line.starts_with("model name") && !line.starts_with("Model")) continue;
    const size_t colon = line.find(':');
    if (colon != std::string::npos && line.find_first_not_of(" \t", colon + 1) != std::string::npos) {
      return line.substr(line.find_first_not_of(" \t", colon + 1));
    }
  }
  return "unknown";
}

double share(int64_t part, int64_t whole) { return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0; }

// "12f 3u 1m": not found, not used, misread, and "s" for no visible source; "-" if nothing failed.
std::string failures_text(const EvalCell& cell) {
  static constexpr char kLetters[kFailures] = {'f', 'u', 'm', 's'};
  std::string text;
  for (int f = 0; f < kFailures; ++f) {
    if (cell.failures[f] > 0) text += fmt::format("{}{}{}", text.empty() ? "" : " ", cell.failures[f], kLetters[f]);
  }
  return text.empty() ? "-" : text;
}

Json mean_json(const Mean& mean) {
  const double error = mean.standard_error();
  return {{"mean", mean.n > 0 ? Json(mean.mean) : Json(nullptr)},
          {"standard_error", std::isfinite(error) ? Json(error) : Json(nullptr)},
          {"count", mean.n}};
}

Json diagnosis_json(const Diagnosis& diagnosis) {
  Json retrievals = Json::array();
  for (const RetrievalDiagnosis& d : diagnosis.retrievals) {
    const bool any = !d.ranks.empty();
    const auto first = std::count(d.ranks.begin(), d.ranks.end(), int64_t{1});
    retrievals.push_back({{"rows", std::ssize(d.ranks)},
                          {"rank_median", any ? Json(quantile(d.ranks, .5)) : Json(nullptr)},
                          {"rank_90", any ? Json(quantile(d.ranks, .9)) : Json(nullptr)},
                          {"recall_at_1", any ? Json(share(first, std::ssize(d.ranks))) : Json(nullptr)},
                          {"kl", mean_json(d.kl)},
                          {"spearman", mean_json(d.spearman)}});
  }
  return {{"retrievals", retrievals}, {"source_drop", mean_json(diagnosis.source_drop)}, {"other_drop", mean_json(diagnosis.other_drop)}};
}

Json cell_json(const EvalCell& cell) {
  const Interval forced = wilson_interval(cell.correct, cell.samples), generated = wilson_interval(cell.generated_correct, cell.samples);
  Json recall = Json::array(), depths = Json::array();
  for (size_t r = 0; r < cell.recall_rows.size(); ++r) {
    recall.push_back(cell.recall_rows[r] > 0 ? Json(share(cell.recall_hits[r], cell.recall_rows[r])) : Json(nullptr));
  }
  for (int64_t b = 0; b < EvalCell::kBins; ++b) {
    depths.push_back(
        {{"low", b / 10.0}, {"high", (b + 1) / 10.0}, {"samples", cell.depths[b].samples}, {"correct", cell.depths[b].correct}});
  }
  const EvalTimes& t = cell.times;
  const Json decode = t.decode_steps > 0 ? Json(1000 * t.decode_seconds / static_cast<double>(t.decode_steps)) : Json(nullptr);
  const auto known = [](const std::optional<int64_t>& bytes) { return bytes ? Json(*bytes) : Json(nullptr); };
  Json failures = Json::object();
  for (int f = 0; f < kFailures; ++f) failures[std::string(failure_name(f))] = cell.failures[f];
  return {{"task", cell.task},
          {"length", cell.length},
          {"samples", cell.samples},
          {"correct", cell.correct},
          {"accuracy", share(cell.correct, cell.samples)},
          {"wilson_low", forced.low},
          {"wilson_high", forced.high},
          {"generated_correct", cell.generated_correct},
          {"generated_accuracy", share(cell.generated_correct, cell.samples)},
          {"generated_wilson_low", generated.low},
          {"generated_wilson_high", generated.high},
          {"token_accuracy", share(cell.tokens_correct, cell.tokens)},
          {"floor_samples", cell.floor_samples},
          {"floor_correct", cell.floor_correct},
          {"floor_accuracy", cell.floor_samples > 0 ? Json(share(cell.floor_correct, cell.floor_samples)) : Json(nullptr)},
          {"chance", cell.chance},
          {"recall", recall},
          {"failures", failures},
          {"diagnosis", cell.diagnosis ? diagnosis_json(*cell.diagnosis) : Json(nullptr)},
          {"seconds", cell.seconds},
          {"tokens_per_second", cell.seconds > 0 ? static_cast<double>(cell.tokens_read) / cell.seconds : 0},
          {"seconds_reading", t.reading},
          {"seconds_edits", t.edits},
          {"seconds_asking", t.asking},
          {"seconds_generating", t.generating},
          {"decode_milliseconds", decode},
          {"state_bytes", cell.state_bytes},
          {"device_peak_bytes", known(cell.device_peak_bytes)},
          {"device_current_bytes", known(cell.device_current_bytes)},
          {"shared_window", cell.shared_window},
          {"depths", depths}};
}

}  // namespace

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string command_line() {
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  const std::string all{std::istreambuf_iterator<char>(in), {}};
  std::string result;
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = std::min(all.find('\0', begin), all.size());
    std::string word = all.substr(begin, end - begin);
    if (begin == 0) word = fs::path(word).filename().string();  // the program's name, not where it stands
    if (word.empty() || word.find_first_of(" \t\"'$&|;<>()*?") != std::string::npos) {
      std::string quoted = "'";
      for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
      word = quoted + "'";
    }
    result += (result.empty() ? "" : " ") + word;
    begin = end + 1;
  }
  return result;
}

nlohmann::ordered_json header_json(const EvalHeader& header, const ModelConfig& config, const std::string& kind) {
  return {{"cairn", CAIRN_VERSION},
          {"kind", kind},
          {"model", header.model},
          {"fingerprint", header.fingerprint},
          {"created", header.created},
          {"environment",
           {{"cpu", processor()},
            {"cores", static_cast<int64_t>(std::thread::hardware_concurrency())},
            {"threads", at::get_num_threads()},
            {"torch", TORCH_VERSION},
            {"capability", at::get_cpu_capability()},
            {"device", header.device.str()},
            {"precision", header.compute == at::kFloat ? "fp32" : "bf16"},
            {"landmark_dtype", header.eight_bit.landmarks ? "int8" : "auto"},
            {"kv_dtype", header.eight_bit.kv ? "int8" : "auto"}}},
          {"config", Json::parse(config.to_json())},
          {"training_length", header.training_length ? Json(*header.training_length) : Json(nullptr)},
          {"command", header.command}};
}

std::string eval_json(const EvalHeader& header, const ModelConfig& config, const std::vector<EvalCell>& cells) {
  Json json = header_json(header, config, "eval");
  json["haystack"] = header.haystack;
  json["seed"] = header.seed;
  json["cells"] = Json::array();
  for (const EvalCell& cell : cells) json["cells"].push_back(cell_json(cell));
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string eval_table(const std::vector<EvalCell>& cells) {
  std::string out =
      fmt::format("{:<20} {:>8} {:>8} {:>17} {:>10} {:>7} {:>10} {:>14} {:>9} {:>10} {:>9} {:>8}\n", "task", "length", "right",
                  "95 % interval", "generated", "floor", "recall", "failures", "time", "tokens/s", "ms/token", "memory");
  for (const EvalCell& cell : cells) {
    const Interval interval = wilson_interval(cell.correct, cell.samples);
    std::string recall;
    for (size_t r = 0; r < cell.recall_rows.size(); ++r) {
      recall += (recall.empty() ? "" : "/") +
                (cell.recall_rows[r] > 0 ? fmt::format("{:.2f}", share(cell.recall_hits[r], cell.recall_rows[r])) : "-");
    }
    out += fmt::format(
        "{:<20} {:>8} {:>8} {:>17} {:>10} {:>7} {:>10} {:>14} {:>9} {:>10.0f} {:>9} {:>8}\n", cell.task, format_length(cell.length),
        fmt::format("{}/{}", cell.correct, cell.samples), fmt::format("{:.3f} .. {:.3f}", interval.low, interval.high),
        fmt::format("{}/{}", cell.generated_correct, cell.samples),
        cell.floor_samples > 0 ? fmt::format("{}/{}", cell.floor_correct, cell.floor_samples) : "-", recall.empty() ? "-" : recall,
        failures_text(cell), format_duration(cell.seconds), cell.seconds > 0 ? static_cast<double>(cell.tokens_read) / cell.seconds : 0,
        cell.times.decode_steps > 0 ? fmt::format("{:.3g}", 1000 * cell.times.decode_seconds / static_cast<double>(cell.times.decode_steps))
                                    : "-",
        format_bytes(static_cast<double>(cell.device_peak_bytes.value_or(cell.state_bytes))));
  }
  const bool failed = std::any_of(cells.begin(), cells.end(), [](const EvalCell& cell) { return cell.correct < cell.samples; });
  if (failed) out += "failures: f source chunk not found, u found but not used, m misread, s no visible source\n";
  for (const EvalCell& cell : cells) {
    if (!cell.diagnosis) continue;
    for (size_t r = 0; r < cell.diagnosis->retrievals.size(); ++r) {
      const RetrievalDiagnosis& d = cell.diagnosis->retrievals[r];
      if (d.ranks.empty()) continue;
      out += fmt::format("{} {} retrieval {}: source's rank {} (median), {} (90 %)", cell.task, format_length(cell.length), r + 1,
                         quantile(d.ranks, .5), quantile(d.ranks, .9));
      if (d.kl.n > 0) out += fmt::format("; KL {:.3f} nats, Spearman {:.3f} of {} rows", d.kl.mean, d.spearman.mean, d.kl.n);
      out += "\n";
    }
    const auto drop = [](const Mean& mean) {
      return mean.n > 0 ? fmt::format("{:.3f} nats ({} tokens)", mean.mean, mean.n) : "not measured";
    };
    out += fmt::format("{} {} log-probability lost without the source chunk: {}; without another chosen chunk: {}\n", cell.task,
                       format_length(cell.length), drop(cell.diagnosis->source_drop), drop(cell.diagnosis->other_drop));
  }
  return out;
}

}  // namespace cairn
