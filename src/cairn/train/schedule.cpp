#include "cairn/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cairn/core/error.h"

namespace cairn {
namespace {

// 1 before the ramp, 0 after it.
double falling(const std::vector<double>& ramp, double clock) {
  if (ramp.empty()) return 0;
  if (clock < ramp[0]) return 1;
  if (clock >= ramp[1]) return 0;
  return (ramp[1] - clock) / (ramp[1] - ramp[0]);
}

double mean(const std::deque<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

void push(std::deque<double>& values, double value, int64_t limit) {
  if (std::isnan(value)) return;
  values.push_back(value);
  while (static_cast<int64_t>(values.size()) > limit) values.pop_front();
}

}  // namespace

Schedule::Schedule(const TrainConfig& config)
    : options_(config.train),
      model_alpha_(config.model.alpha),
      model_beta_(config.model.beta),
      phases_(config.phases()),
      gate_tasks_(config.gate_tasks()) {}

Moment Schedule::at(int64_t step) const {
  Moment m;
  while (m.phase + 1 < static_cast<int64_t>(phases_.size()) && clock_ >= phases_[m.phase].end) ++m.phase;
  m.length = phases_[m.phase].length;
  m.top_k = phases_[m.phase].top_k;
  m.alpha = options_.alpha_ramp.empty() ? model_alpha_ : model_alpha_ + (1 - model_alpha_) * falling(options_.alpha_ramp, clock_);
  m.beta = options_.beta_ramp.empty() ? model_beta_ : model_beta_ + (1 - model_beta_) * falling(options_.beta_ramp, clock_);
  m.route_weight = clock_ >= options_.route_from ? options_.route_weight : 0;
  m.distillation_weight = options_.distillation_weight * m.alpha;

  double share = 1;
  if (options_.schedule == "cosine") {
    share = options_.min_lr + (1 - options_.min_lr) * 0.5 * (1 + std::cos(M_PI * std::min(1.0, clock_)));
  } else if (options_.decay > 0 && clock_ > 1 - options_.decay) {
    share = 1 - (1 - options_.min_lr) * std::min(1.0, (clock_ - (1 - options_.decay)) / options_.decay);
  }
  const double warm =
      options_.warmup_steps > 0 ? std::min(1.0, static_cast<double>(step + 1) / static_cast<double>(options_.warmup_steps)) : 1;
  m.lr = options_.lr * warm * share;
  return m;
}

bool Schedule::waiting() const {
  return gates_passed_ < static_cast<int64_t>(options_.gates.size()) && clock_ >= options_.gates[gates_passed_];
}

void Schedule::advance(int64_t tokens, double seconds) {
  if (waiting()) {
    waited_tokens_ += tokens;
    return;
  }
  double share = static_cast<double>(tokens) / static_cast<double>(options_.tokens);
  if (options_.max_minutes > 0) share = std::max(share, seconds / (60 * options_.max_minutes));
  clock_ += share;
  // Rounding of many small shares must not leave the last step a hair below the end.
  if (clock_ > 1 - 1e-9) clock_ = 1;
  // The clock stops at the gate itself, so that nothing stated after the gate begins.
  if (waiting()) clock_ = options_.gates[gates_passed_];
}

std::string Schedule::measure(const SkillPoint& point) {
  for (const auto& task : gate_tasks_) {
    const auto found = point.accuracy.find(task);
    if (found != point.accuracy.end()) push(accuracy_[task], found->second, options_.gate_points);
  }
  push(recall_, point.recall, options_.gate_points);
  if (!waiting() || !skilled()) return {};
  const double gate = options_.gates[gates_passed_];
  const Skill skill = mean_skill();
  double worst = 1;
  for (const auto& [task, accuracy] : skill.accuracy) worst = std::min(worst, accuracy);
  const int64_t waited = waited_tokens_;
  pass_gate();
  return fmt::format("gate at {:.2f} opens after waiting {:.1f}M tokens: answer accuracy {:.3f} or better, source recall {:.3f}", gate,
                     static_cast<double>(waited) / 1e6, worst, skill.recall);
}

void Schedule::pass_gate() {
  CAIRN_CHECK(waiting(), "no gate to pass at clock {}", clock_);
  ++gates_passed_;
  waited_tokens_ = 0;
}

Schedule::Skill Schedule::mean_skill() const {
  Skill skill;
  skill.enough = static_cast<int64_t>(recall_.size()) >= options_.gate_points;
  for (const auto& task : gate_tasks_) {
    const auto found = accuracy_.find(task);
    if (found == accuracy_.end() || static_cast<int64_t>(found->second.size()) < options_.gate_points) skill.enough = false;
    skill.accuracy[task] = found == accuracy_.end() ? 0 : mean(found->second);
  }
  skill.recall = mean(recall_);
  return skill;
}

bool Schedule::skilled() const {
  const Skill skill = mean_skill();
  if (!skill.enough || skill.recall <= options_.gate_recall) return false;
  return std::all_of(skill.accuracy.begin(), skill.accuracy.end(),
                     [&](const auto& entry) { return entry.second > options_.gate_accuracy; });
}

bool Schedule::wait_exceeded() const { return waiting() && waited_tokens_ > options_.gate_tokens; }

std::string Schedule::diagnosis() const {
  const Skill skill = mean_skill();
  std::string missing;
  double worst = 1;
  for (const auto& [task, accuracy] : skill.accuracy) {
    worst = std::min(worst, accuracy);
    if (accuracy <= options_.gate_accuracy) missing += fmt::format("{}{} {:.2f}", missing.empty() ? "" : ", ", task, accuracy);
  }
  std::string hint;
  if (skill.recall > options_.gate_recall) {
    hint =
        "the source chunks are found, so reading them is what is missing: keep beta at 1 longer, or train longer before the gate "
        "(gate_tokens)";
  } else if (worst > options_.gate_accuracy) {
    hint =
        "the answers are right without the landmarks finding their chunk (a window or sequence too easy to need them): shorten "
        "model.window, "
        "lengthen the sequences, or raise route_weight";
  } else {
    hint =
        "neither answers nor landmarks have formed: more tokens a step (batch_tokens), a larger share of dense tasks, a smaller window or "
        "chunk, "
        "or more tokens (gate_tokens) usually help";
  }
  return fmt::format(
      "no skill at gate {:.2f} after waiting {:.1f}M tokens (gate_tokens): answer accuracy must exceed {:.2f}{}{}; source recall is {:.2f} "
      "and must "
      "exceed {:.2f}. What this usually means: {}",
      options_.gates[gates_passed_], static_cast<double>(waited_tokens_) / 1e6, options_.gate_accuracy, missing.empty() ? "" : ", but is ",
      missing, skill.recall, options_.gate_recall, hint);
}

std::string Schedule::to_json() const {
  nlohmann::json json;
  json["clock"] = clock_;  // nlohmann writes doubles so that reading gives the same bits
  json["gates_passed"] = gates_passed_;
  json["waited_tokens"] = waited_tokens_;
  json["accuracy"] = accuracy_;
  json["recall"] = recall_;
  return json.dump();
}

void Schedule::restore(const std::string& text, const std::string& source) {
  try {
    const auto json = nlohmann::json::parse(text);
    clock_ = json.at("clock").get<double>();
    gates_passed_ = json.at("gates_passed").get<int64_t>();
    waited_tokens_ = json.at("waited_tokens").get<int64_t>();
    accuracy_ = json.at("accuracy").get<std::map<std::string, std::deque<double>>>();
    recall_ = json.at("recall").get<std::deque<double>>();
  } catch (const nlohmann::json::exception& error) {
    throw UserError("{}: the schedule's state cannot be read ({})", source, error.what());
  }
  if (!(clock_ >= 0 && clock_ <= 1) || gates_passed_ < 0 || gates_passed_ > static_cast<int64_t>(options_.gates.size())) {
    throw UserError("{}: the schedule's state does not fit this configuration (clock {}, gates passed {})", source, clock_, gates_passed_);
  }
}

}  // namespace cairn
