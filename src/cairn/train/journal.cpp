#include "cairn/train/journal.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/format.h>
#include <torch/headeronly/version.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "cairn/core/files.h"

namespace cairn {
namespace {

using Json = nlohmann::ordered_json;

Json line(const char* kind, const Journal::Position& at) {
  return Json{{"kind", kind}, {"step", at.step}, {"tokens", at.tokens}, {"seconds", at.seconds}};
}

std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string text; std::getline(info, text);) {
    if (text.starts_with("model name")) return text.substr(std::min(text.size(), text.find(':') + 2));
  }
  return "unknown";
}

std::string short_count(double tokens) {
  if (tokens >= 1e9) return fmt::format("{:.2f}G", tokens / 1e9);
  if (tokens >= 1e6) return fmt::format("{:.1f}M", tokens / 1e6);
  return fmt::format("{:.0f}K", tokens / 1e3);
}

}  // namespace

Journal::Journal(std::unique_ptr<Metrics> metrics, bool quiet)
    : metrics_(std::move(metrics)), quiet_(quiet), terminal_(isatty(STDERR_FILENO) != 0) {}

Journal::~Journal() {
  if (open_line_) std::fputc('\n', stderr);
}

void Journal::say(const std::string& text) {
  if (quiet_) return;
  if (open_line_) std::fputc('\n', stderr);
  open_line_ = false;
  std::fprintf(stderr, "%s\n", text.c_str());
}

void Journal::progress(const std::string& text) {
  if (quiet_) return;
  if (terminal_) {
    std::fprintf(stderr, "\r\033[K%s", text.c_str());
    std::fflush(stderr);
    open_line_ = true;
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (now - last_print_ < std::chrono::seconds(5)) return;  // into a file: a line every few seconds is enough
  last_print_ = now;
  std::fprintf(stderr, "%s\n", text.c_str());
}

void Journal::start(const std::string& config, const std::string& environment, int64_t resumed_step, const std::string& summary) {
  say(summary);
  if (!metrics_) return;
  Json json{{"kind", "start"}, {"step", resumed_step}, {"config", Json::parse(config)}, {"environment", Json::parse(environment)}};
  metrics_->write(json.dump());
}

void Journal::step(const Position& at, const Moment& moment, const Measurement& m, const Optimizer::Report& optimizer) {
  std::string skills;
  for (const auto& [task, accuracy] : m.skill) skills += fmt::format("{}{} {:.2f}", skills.empty() ? "" : "  ", task, accuracy);
  std::string recalls;
  for (const auto& r : m.recall) recalls += fmt::format("{}{:.2f}", recalls.empty() ? "" : "/", r[0]);
  progress(fmt::format("{:3.0f} %  {} tokens  loss {:.3f}  {}{}  {} tokens/s  {}", 100 * at.clock,
                       short_count(static_cast<double>(at.tokens)), m.loss, skills, recalls.empty() ? "" : "  recall " + recalls,
                       short_count(at.tokens_per_second),
                       at.waiting             ? std::string("waiting for skill")
                       : at.seconds_left >= 0 ? format_duration(at.seconds_left) + " left"
                                              : std::string()));
  if (!metrics_) return;
  Json json = line("step", at);
  const auto optional = [](double value) { return std::isnan(value) ? Json(nullptr) : Json(value); };
  json["clock"] = at.clock;
  json["loss"] = m.loss;
  json["cross_entropy"] = m.cross_entropy;
  json["route"] = optional(m.route);
  json["distillation"] = optional(m.distillation);
  json["lr"] = moment.lr;
  json["alpha"] = moment.alpha;
  json["beta"] = moment.beta;
  json["length"] = moment.length;
  json["top_k"] = moment.top_k == Phase::kAllChunks ? Json("all") : Json(moment.top_k);
  json["grad_norm"] = optimizer.norm;
  json["skipped"] = optimizer.skipped;
  json["tokens_per_second"] = at.tokens_per_second;
  json["skill"] = m.skill;
  json["loss_by_task"] = m.loss_by_task;
  json["recall"] = m.recall;
  metrics_->write(json.dump());

  std::map<std::string, double> scalars{{"loss/total", m.loss},
                                        {"loss/cross_entropy", m.cross_entropy},
                                        {"loss/route", m.route},
                                        {"loss/distillation", m.distillation},
                                        {"schedule/lr", moment.lr},
                                        {"schedule/alpha", moment.alpha},
                                        {"schedule/beta", moment.beta},
                                        {"schedule/clock", at.clock},
                                        {"train/grad_norm", optimizer.norm},
                                        {"train/tokens_per_second", at.tokens_per_second},
                                        {"schedule/length", static_cast<double>(moment.length)}};
  for (const auto& [task, accuracy] : m.skill) scalars["skill/" + task] = accuracy;
  for (const auto& [task, loss] : m.loss_by_task) scalars["loss_by_task/" + task] = loss;
  for (size_t i = 0; i < m.recall.size(); ++i) {
    scalars[fmt::format("recall/{}", i)] = m.recall[i][0];
    scalars[fmt::format("recall_first/{}", i)] = m.recall[i][1];
  }
  metrics_->scalars(at.step, scalars);
}

void Journal::phase(const Position& at, const Moment& moment) {
  const std::string top_k = moment.top_k == Phase::kAllChunks ? "all" : std::to_string(moment.top_k);
  say(fmt::format("phase {}: sequences of {} tokens, top_k {}", moment.phase + 1, moment.length, top_k));
  if (!metrics_) return;
  Json json = line("phase", at);
  json["phase"] = moment.phase;
  json["length"] = moment.length;
  json["top_k"] = moment.top_k == Phase::kAllChunks ? Json("all") : Json(moment.top_k);
  metrics_->write(json.dump());
}

void Journal::validation(const Position& at, double loss, int64_t tokens) {
  say(fmt::format("step {}: held-out text: loss {:.4f}, perplexity {:.2f} ({} tokens)", at.step, loss, std::exp(loss), tokens));
  if (!metrics_) return;
  Json json = line("validation", at);
  json["loss"] = loss;
  json["perplexity"] = std::exp(loss);
  json["validation_tokens"] = tokens;
  metrics_->write(json.dump());
  metrics_->scalars(at.step, {{"validation/loss", loss}});
}

void Journal::gate(const Position& at, const std::string& what, const std::string& event) {
  say(what);
  if (!metrics_) return;
  Json json = line("gate", at);
  json["event"] = event;
  json["clock"] = at.clock;
  json["message"] = what;
  metrics_->write(json.dump());
}

void Journal::spike(const Position& at, int64_t skipped, double norm, double running_norm) {
  say(fmt::format("step {}: {} steps left out so far for a non-finite or outlying gradient (last norm {:.3g}, running norm {:.3g})",
                  at.step, skipped, norm, running_norm));
  if (!metrics_) return;
  Json json = line("spike", at);
  json["skipped"] = skipped;
  json["grad_norm"] = std::isfinite(norm) ? Json(norm) : Json(nullptr);
  json["running_norm"] = running_norm;
  metrics_->write(json.dump());
}

void Journal::save(const Position& at, const std::string& name) {
  if (!metrics_) return;
  Json json = line("save", at);
  json["checkpoint"] = name;
  metrics_->write(json.dump());
}

void Journal::end(const Position& at, const std::string& reason) {
  say(fmt::format("{} after {} steps, {:.2f}M tokens, {}", reason, at.step, static_cast<double>(at.tokens) / 1e6,
                  format_duration(at.seconds)));
  if (!metrics_) return;
  Json json = line("end", at);
  json["reason"] = reason;
  metrics_->write(json.dump());
  metrics_->sync();
}

Metrics::Sizes Journal::sizes() const { return metrics_ ? metrics_->sizes() : Metrics::Sizes{}; }

void Journal::sync() {
  if (metrics_) metrics_->sync();
}

std::string environment_json(at::Device device) {
  Json json;
  json["cairn"] = CAIRN_VERSION;
  json["torch"] = TORCH_VERSION;
  json["processor"] = processor_name();
  json["cores"] = std::thread::hardware_concurrency();
  json["threads"] = at::get_num_threads();
  json["capability"] = at::get_cpu_capability();
  json["device"] = device.str();
  return json.dump();
}

}  // namespace cairn
