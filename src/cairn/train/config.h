// Everything a training run is made of, declared once (core/options.h): model, data, tasks, curriculum, optimizer, run folder.
//
// Every transition of the curriculum (ends of phases, ramps of alpha and beta, start of the route loss, decay of the learning rate) is
// stated as a share of the run's schedule, 0 to 1. A gate is a point of the schedule where its clock waits until skill is measured; so
// whatever is stated after a gate happens only once the model has learned what it needs (docs/recipe.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cairn/model/config.h"
#include "cairn/tasks/task_set.h"

namespace cairn {

struct DataOptions {
  std::string tokenizer = "bytes";  // "bytes", "word_pairs", or the file of a tokenizer
  std::vector<std::string> train;   // running text: token shards (or anything open_token_source knows); empty with mixes that need no text
  std::string validation;           // held-out text; empty: none
};

struct TrainOptions {
  int64_t tokens = 180'000'000;   // length of the schedule, tokens of the global batch
  double max_minutes = 0;         // > 0: the schedule also advances by wall time and ends after so many minutes (not bit-reproducible)
  int64_t batch_tokens = 65'536;  // per step, all processes together
  std::vector<std::string> phases = {"1024:all:0.55", "2048:8:0.73", "4096:8:1"};  // length:top_k:end
  std::vector<double> alpha_ramp;  // {begin, end}: alpha falls from 1 to model.alpha; empty: model.alpha throughout
  std::vector<double> beta_ramp;   // the same for beta
  bool gumbel = true;              // noise on the choice of chunks

  double lr = 1e-3, min_lr = 0.1;  // min_lr: share of lr at the end
  std::string schedule = "wsd";    // wsd | cosine
  double decay = 0.35;             // wsd: share of the schedule over which the rate falls linearly at the end
  int64_t warmup_steps = 200;
  std::vector<double> betas = {0.9, 0.95};
  double weight_decay = 0.1, epsilon = 1e-8, clip = 1.0;
  double spike_factor = 20;  // a step whose gradient norm exceeds so many times the running norm is left out; 0: only non-finite ones
  int64_t spike_limit = 20;  // so many left out in a row end the run

  double route_weight = 0.1, route_from = 0;
  double distillation_weight = 0;  // times alpha

  std::vector<double> gates;            // points of the schedule where its clock waits for skill
  std::vector<std::string> gate_tasks;  // tasks that must be skilled; empty: all of the mix but text and copy
  double gate_accuracy = 0.9, gate_recall = 0.9;
  int64_t gate_points = 3;            // mean over so many last log points
  int64_t gate_tokens = 100'000'000;  // longest wait at one gate
  std::string gate_bound = "stop";    // stop | go_on: what happens when the wait was in vain

  std::string precision = "fp32";  // fp32 | bf16 products with fp32 weights
  int64_t seed = 1;
  int64_t data_threads = 2;

  int64_t log_every = 20, validate_every = 500, save_every = 1000;  // steps; 0: never (the end is always saved)
  int64_t validation_tokens = 262'144;
  int64_t keep_last = 2, keep_every = 0;  // checkpoints kept: the newest so many, and those whose step is a multiple of keep_every
};

// One entry of TrainOptions::phases.
struct Phase {
  int64_t length = 0;
  int64_t top_k = 0;  // kAllChunks: every visible chunk
  double end = 1;     // share of the schedule
  static constexpr int64_t kAllChunks = int64_t{1} << 40;
};

struct TrainConfig {
  ModelConfig model;
  DataOptions data;
  TaskOptions tasks;
  TrainOptions train;

  void declare(OptionTable& table);
  void validate() const;              // UserError: names the option, its value and what would be right
  std::vector<Phase> phases() const;  // parsed; UserError
  std::vector<std::string> gate_tasks() const;
  int64_t longest() const;  // tokens of the longest phase
};

// The tasks of `mix` ("task:share") with a share above 0, in its order.
std::vector<std::string> mix_tasks(const std::vector<std::string>& mix);

}  // namespace cairn
