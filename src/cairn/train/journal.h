// What a run tells: lines of metrics.jsonl, TensorBoard scalars, and one progress line on the terminal. Silent on all processes but the
// first.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "cairn/train/metrics.h"
#include "cairn/train/optimizer.h"
#include "cairn/train/step.h"

namespace cairn {

class Journal {
 public:
  // metrics null: nothing is written (other processes, rehearsals). quiet: nothing on the terminal.
  Journal(std::unique_ptr<Metrics> metrics, bool quiet);
  ~Journal();

  struct Position {
    int64_t step = 0;  // steps done
    int64_t tokens = 0;
    double seconds = 0;  // of training
    double tokens_per_second = 0;
    double clock = 0;          // of the schedule
    double seconds_left = -1;  // < 0: not known
    bool waiting = false;      // at a gate
  };

  void start(const std::string& config_json, const std::string& environment_json, int64_t resumed_step, const std::string& summary);
  void step(const Position& at, const Moment& moment, const Measurement& m, const Optimizer::Report& optimizer);
  void phase(const Position& at, const Moment& moment);
  void validation(const Position& at, double loss, int64_t tokens);
  void gate(const Position& at, const std::string& what, const std::string& event);  // event: opened | passed | failed
  void spike(const Position& at, int64_t skipped, double norm, double running_norm);
  void save(const Position& at, const std::string& name);
  void end(const Position& at, const std::string& reason);
  void say(const std::string& line);  // a line of its own on the terminal

  Metrics::Sizes sizes() const;
  void sync();

 private:
  void progress(const std::string& line);
  std::unique_ptr<Metrics> metrics_;
  bool quiet_, terminal_;
  bool open_line_ = false;  // a progress line stands on the terminal without its newline
  std::chrono::steady_clock::time_point last_print_{};
};

// Machine and build, as JSON: processor, cores, threads, torch version, CPU capability, device, program version.
std::string environment_json(at::Device device);

}  // namespace cairn
