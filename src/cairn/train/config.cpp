#include "cairn/train/config.h"

#include <algorithm>
#include <charconv>

#include "cairn/core/error.h"

namespace cairn {
namespace {

bool parse_number(std::string_view text, double* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

Phase parse_phase(const std::string& text) {
  constexpr const char* kForm = "a phase is length:top_k:end, for example \"1024:all:0.55\" (end is a share of the schedule, 0 to 1)";
  const size_t first = text.find(':'), second = first == std::string::npos ? first : text.find(':', first + 1);
  Phase phase;
  if (second == std::string::npos || !parse_length(text.substr(0, first), &phase.length) || phase.length < 1 ||
      !parse_number(std::string_view(text).substr(second + 1), &phase.end)) {
    throw UserError("train.phases: cannot read \"{}\"; {}", text, kForm);
  }
  const std::string top_k = text.substr(first + 1, second - first - 1);
  if (top_k == "all") {
    phase.top_k = Phase::kAllChunks;
  } else if (!parse_length(top_k, &phase.top_k) || phase.top_k < 1) {
    throw UserError("train.phases: top_k of \"{}\" is neither \"all\" nor a positive integer; {}", text, kForm);
  }
  return phase;
}

void check_ramp(const std::string& name, const std::vector<double>& ramp) {
  if (ramp.empty()) return;
  if (ramp.size() != 2 || ramp[0] > ramp[1])
    throw UserError("{} is [begin, end], two shares of the schedule with begin <= end, or empty", name);
}

}  // namespace

void TrainConfig::declare(OptionTable& table) {
  model.declare(table);
  table.add("data.tokenizer", &data.tokenizer, "\"bytes\", \"word_pairs\", or the file of a tokenizer");
  table.add("data.train", &data.train, "running text for training: token shards, text files or \"prose:SEED\"; several are joined");
  table.add("data.validation", &data.validation, "held-out text for the validation loss; empty: none");
  tasks.declare(table);

  TrainOptions& t = train;
  table.add("train.tokens", &t.tokens, "length of the schedule in tokens", 1);
  table.add("train.max_minutes", &t.max_minutes, "if above 0, the schedule also advances by wall time and ends after so many minutes", 0,
            1e6);
  table.add("train.batch_tokens", &t.batch_tokens, "tokens a step, all processes together", 1, 1e9);
  table.add("train.phases", &t.phases, "length:top_k:end; top_k may be \"all\"; end is a share of the schedule");
  table.add("train.alpha_ramp", &t.alpha_ramp,
            "[begin, end]: alpha (exact mass in the chunk weights) falls from 1 to model.alpha; empty: constant", 0, 1);
  table.add("train.beta_ramp", &t.beta_ramp,
            "[begin, end]: beta (memory output in the residual stream) falls from 1 to model.beta; empty: constant", 0, 1);
  table.add("train.gumbel", &t.gumbel, "noise on the choice of chunks while training");
  table.add("train.lr", &t.lr, "peak learning rate", 0, 10);
  table.add("train.min_lr", &t.min_lr, "learning rate at the end, share of lr", 0, 1);
  table.add("train.schedule", &t.schedule, "wsd: constant, then a linear fall; cosine: falls all the time", {"wsd", "cosine"});
  table.add("train.decay", &t.decay, "wsd: last share of the schedule, over which the rate falls", 0, 1);
  table.add("train.warmup_steps", &t.warmup_steps, "steps of linear warm-up");
  table.add("train.betas", &t.betas, "AdamW's averages of the gradient and of its square", 0, 0.99999);
  table.add("train.weight_decay", &t.weight_decay, "of matrices", 0, 10);
  table.add("train.epsilon", &t.epsilon, "AdamW's epsilon", 0, 1);
  table.add("train.clip", &t.clip, "largest global norm of the gradient; 0: no clipping", 0, 1e9);
  table.add("train.spike_factor", &t.spike_factor,
            "steps with a gradient norm above so many times the running norm are left out; 0: only non-finite ones", 0, 1e9);
  table.add("train.spike_limit", &t.spike_limit, "so many steps left out in a row end the run", 1);
  table.add("train.route_weight", &t.route_weight, "weight of the route loss", 0, 1e3);
  table.add("train.route_from", &t.route_from, "share of the schedule at which the route loss starts", 0, 1);
  table.add("train.distillation_weight", &t.distillation_weight, "weight of landmark distillation, times alpha", 0, 1e3);
  table.add("train.gates", &t.gates, "shares of the schedule at which its clock waits until the tasks are learned", 0, 1);
  table.add("train.gate_tasks", &t.gate_tasks, "tasks that a gate asks for; empty: all of the mix but text and copy");
  table.add("train.gate_accuracy", &t.gate_accuracy, "answer-token accuracy that opens a gate", 0, 1);
  table.add("train.gate_recall", &t.gate_recall, "share of answer rows whose source chunk is among the selected that opens a gate", 0, 1);
  table.add("train.gate_points", &t.gate_points, "mean over so many last log points", 1, 1000);
  table.add("train.gate_tokens", &t.gate_tokens, "longest wait at one gate, tokens", 1);
  table.add("train.gate_bound", &t.gate_bound, "after the longest wait: stop with a diagnosis, or go_on", {"stop", "go_on"});
  table.add("train.precision", &t.precision, "of products and attention; weights stay fp32", {"fp32", "bf16"});
  table.add("train.seed", &t.seed, "of initial weights, data and noise");
  table.add("train.data_threads", &t.data_threads, "threads that make batches ahead; the batches do not depend on it", 1, 256);
  table.add("train.log_every", &t.log_every, "steps between log points (and measurements of skill)", 1);
  table.add("train.validate_every", &t.validate_every, "steps between validation losses; 0: only at the end");
  table.add("train.save_every", &t.save_every, "steps between checkpoints; 0: only at the end");
  table.add("train.validation_tokens", &t.validation_tokens, "held-out tokens a validation", 1);
  table.add("train.keep_last", &t.keep_last, "newest checkpoints kept", 1, 1e6);
  table.add("train.keep_every", &t.keep_every, "checkpoints whose step is a multiple of this are kept for ever; 0: none");
}

void TrainConfig::validate() const {
  model.validate();
  const auto parsed = phases();
  double before = 0;
  for (const Phase& phase : parsed) {
    if (phase.end <= before || phase.end > 1)
      throw UserError("train.phases: the ends must rise from above 0 to 1; {} follows {}", phase.end, before);
    before = phase.end;
    if (train.batch_tokens < phase.length) {
      throw UserError("train.batch_tokens = {} holds no sequence of the phase with {} tokens; make it at least that", train.batch_tokens,
                      phase.length);
    }
    if (train.batch_tokens % phase.length != 0) {
      throw UserError("train.batch_tokens = {} is no multiple of the phase length {}", train.batch_tokens, phase.length);
    }
  }
  if (parsed.back().end != 1) throw UserError("train.phases: the last phase ends at {}, but the schedule ends at 1", parsed.back().end);
  check_ramp("train.alpha_ramp", train.alpha_ramp);
  check_ramp("train.beta_ramp", train.beta_ramp);
  if (train.betas.size() != 2) throw UserError("train.betas needs two values, for example [0.9, 0.95]");
  if (!std::is_sorted(train.gates.begin(), train.gates.end())) throw UserError("train.gates must rise");
  const auto tasks_of_mix = mix_tasks(tasks.mix);
  for (const auto& task : train.gate_tasks) {
    if (std::find(tasks_of_mix.begin(), tasks_of_mix.end(), task) == tasks_of_mix.end()) {
      throw UserError("train.gate_tasks: \"{}\" is not in tasks.mix; it would never be measured. Did you mean \"{}\"?", task,
                      nearest_name(task, tasks_of_mix));
    }
  }
  if (!train.gates.empty() && gate_tasks().empty())
    throw UserError("train.gates: no task of tasks.mix measures skill; add one, or leave the gates out");
  if (train.distillation_weight > 0 && train.alpha_ramp.empty() && model.alpha == 0) {
    throw UserError("train.distillation_weight = {} has no effect with alpha 0; set train.alpha_ramp, or the weight to 0",
                    train.distillation_weight);
  }
}

std::vector<Phase> TrainConfig::phases() const {
  if (train.phases.empty()) throw UserError("train.phases is empty; for example [\"1024:8:1\"]");
  std::vector<Phase> result;
  for (const auto& text : train.phases) result.push_back(parse_phase(text));
  return result;
}

std::vector<std::string> TrainConfig::gate_tasks() const {
  if (!train.gate_tasks.empty()) return train.gate_tasks;
  std::vector<std::string> result;
  for (const auto& task : mix_tasks(tasks.mix)) {
    if (task != "text" && task != "copy") result.push_back(task);
  }
  return result;
}

int64_t TrainConfig::longest() const {
  int64_t longest = 0;
  for (const Phase& phase : phases()) longest = std::max(longest, phase.length);
  return longest;
}

std::vector<std::string> mix_tasks(const std::vector<std::string>& mix) {
  std::vector<std::string> result;
  for (const auto& entry : mix) {
    const size_t colon = entry.rfind(':');
    double share = 1;
    if (colon != std::string::npos) parse_number(std::string_view(entry).substr(colon + 1), &share);  // TaskSet reports malformed entries
    if (share > 0) result.push_back(entry.substr(0, colon));
  }
  return result;
}

}  // namespace cairn
