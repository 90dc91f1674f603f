// The clock of the schedule and what it says: phase, alpha, beta, learning rate, losses. Plain numbers, so that all of it is saved exactly
// and a resumed run goes on bit-equal.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "cairn/train/config.h"

namespace cairn {

// What one training step is made with; a function of (configuration, clock, step).
struct Moment {
  int64_t phase = 0;
  int64_t length = 0, top_k = 0;
  double alpha = 0, beta = 0;
  double route_weight = 0;         // 0 before route_from
  double distillation_weight = 0;  // times alpha already
  double lr = 0;
};

// One measurement of skill (a log point). NaN where nothing of the kind was in the batch.
struct SkillPoint {
  std::map<std::string, double> accuracy;  // task -> share of answer tokens right
  double recall = 0;                       // smallest over retrievals: source chunk among the selected
};

// Runs from 0 to 1 with the tokens trained; waits at gates.
class Schedule {
 public:
  explicit Schedule(const TrainConfig& config);

  Moment at(int64_t step) const;  // for the clock's present state
  bool finished() const { return clock_ >= 1; }
  double clock() const { return clock_; }
  bool waiting() const;  // at a gate
  int64_t waited() const { return waited_tokens_; }

  // After a step of `tokens` that took `seconds` (used with max_minutes only).
  void advance(int64_t tokens, double seconds);

  // Takes a measurement in. Returns a line to be told if a gate opened, else nothing.
  std::string measure(const SkillPoint& point);

  // The wait at the present gate exceeded gate_tokens.
  bool wait_exceeded() const;
  // What is missing and what usually helps; for the message at the bound.
  std::string diagnosis() const;
  void pass_gate();  // opens the present gate whatever the skill (gate_bound = "go_on")

  // Exact state as JSON; restore() checks it. UserError naming `source` if malformed.
  std::string to_json() const;
  void restore(const std::string& json, const std::string& source);

 private:
  struct Skill {
    std::map<std::string, double> accuracy;
    double recall = 0;
    bool enough = false;  // enough points for every task
  };
  Skill mean_skill() const;
  bool skilled() const;

  TrainOptions options_;
  double model_alpha_, model_beta_;
  std::vector<Phase> phases_;
  std::vector<std::string> gate_tasks_;
  double clock_ = 0;
  int64_t gates_passed_ = 0;
  int64_t waited_tokens_ = 0;
  std::map<std::string, std::deque<double>> accuracy_;  // last gate_points values of each task
  std::deque<double> recall_;
};

}  // namespace cairn
