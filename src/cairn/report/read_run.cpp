// Reads RUN/metrics.jsonl. Written line by line by a program that may be killed at any time, so a cut last line is normal; a run that was
// resumed repeats the steps after its last checkpoint, and the later ones count.
#include <algorithm>
#include <cmath>
#include <set>

#include "cairn/core/error.h"
#include "cairn/report/fields.h"

namespace cairn::report {
namespace {

constexpr int64_t kMaxCount = int64_t{1} << 60;

std::map<std::string, double> read_map(const Fields& line, const char* name) {
  std::map<std::string, double> values;
  if (!line.has(name)) return values;
  const Fields map(line.at(name), fmt::format("{}: \"{}\"", line.where(), name));
  for (const auto& [key, value] : map.object().items()) {
    if (!value.is_null()) values[key] = map.number(key.c_str());
  }
  return values;
}

// [[top_k, top1], ...], one pair a retrieval; a plain number counts as top_k.
void read_recall(const Fields& line, Step* step) {
  if (!line.has("recall")) return;
  const Json& list = line.at("recall");
  if (!list.is_array()) throw UserError("{}: \"recall\" must be a list", line.where());
  for (const Json& item : list) {
    const Json pair = item.is_array() ? item : Json::array({item});
    for (size_t i = 0; i < 2; ++i) {
      const bool there = i < pair.size() && !pair[i].is_null();
      if (there && !pair[i].is_number()) throw UserError("{}: \"recall\" must hold numbers", line.where());
      (i == 0 ? step->recall : step->recall_top1).push_back(there ? pair[i].get<double>() : kMissing);
    }
  }
}

Step read_step(const Fields& line) {
  Step s;
  s.step = line.integer("step", 0, kMaxCount);
  s.tokens = line.number_in("tokens", 0, 1e18);
  if (std::isnan(s.tokens)) throw UserError("{}: the field \"tokens\" is missing", line.where());
  s.seconds = line.number("seconds");
  s.loss = line.number("loss");
  s.cross_entropy = line.number("cross_entropy");
  s.route = line.number("route");
  s.distillation = line.number("distillation");
  s.lr = line.number("lr");
  s.alpha = line.number("alpha");
  s.beta = line.number("beta");
  s.length = line.number("length");
  if (line.has("top_k") && line.text("top_k") != "all") s.top_k = line.number("top_k");  // "all": every chunk, as in the first phase
  s.grad_norm = line.number("grad_norm");
  s.tokens_per_second = line.number("tokens_per_second");
  s.skill = read_map(line, "skill");
  s.loss_by_task = read_map(line, "loss_by_task");
  read_recall(line, &s);
  return s;
}

// What a line of kind phase, gate, ... says, apart from where it stands: its message, or "length 2048, top_k 8".
std::string event_text(const Json& line) {
  if (line.contains("message") && line["message"].is_string()) return line["message"].get<std::string>();
  std::string text;
  for (const auto& [key, value] : line.items()) {
    if (key == "kind" || key == "step" || key == "tokens" || key == "seconds" || value.is_null()) continue;
    if (value.is_object()) {
      for (const auto& [name, inner] : flatten(value)) text += fmt::format("{}{}.{} {}", text.empty() ? "" : ", ", key, name, inner);
    } else {
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", key, value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
  return text;
}

class RunReader {
 public:
  explicit RunReader(Run* run) : run_(run) {}

  void add(const Fields& line) {
    const std::string kind = line.text("kind");
    if (kind == "step") {
      add_step(read_step(line));
    } else if (kind == "validation") {
      const double tokens = line.number_in("tokens", 0, 1e18), loss = line.number("loss");
      if (!std::isnan(tokens) && !std::isnan(loss)) run_->validation.emplace_back(tokens, loss);
    } else if (kind == "start") {
      add_start(line);
    } else if (kind == "phase" || kind == "gate" || kind == "spike" || kind == "end") {
      Event event{kind, event_text(line.object()), last_step_, last_tokens_};
      if (line.has("step")) event.step = line.integer("step", 0, kMaxCount);
      if (line.has("tokens")) event.tokens = line.number_in("tokens", 0, 1e18);
      run_->events.push_back(std::move(event));
    }
  }

  void finish() {
    const auto bad = std::count_if(run_->steps.begin(), run_->steps.end(), [](const Step& s) { return !std::isfinite(s.loss); });
    if (bad > 0) run_->notes.push_back(fmt::format("{} of {} steps have no loss that is a number.", bad, run_->steps.size()));
    if (run_->steps.empty()) run_->notes.push_back("No step has been written yet.");
  }

 private:
  void add_step(Step step) {
    while (!run_->steps.empty() && run_->steps.back().step >= step.step) run_->steps.pop_back();
    auto later = [&](double tokens) { return tokens >= step.tokens; };
    if (step.tokens < last_tokens_) {  // done again after a resume
      std::erase_if(run_->validation, [&](const auto& v) { return later(v.first); });
      std::erase_if(run_->events, [&](const Event& e) { return e.kind != "resume" && later(e.tokens); });
    }
    last_step_ = step.step;
    last_tokens_ = step.tokens;
    run_->steps.push_back(std::move(step));
  }

  void add_start(const Fields& line) {
    if (line.has("config")) run_->config = flatten(line.at("config"));
    if (line.has("environment")) run_->environment = flatten(line.at("environment"));
    if (started_ || (line.has("step") && line.integer("step", 0, kMaxCount) > 0)) {
      Event event{"resume", "", last_step_, last_tokens_};
      if (line.has("step")) event.step = line.integer("step", 0, kMaxCount);
      if (line.has("tokens")) event.tokens = line.number_in("tokens", 0, 1e18);
      run_->events.push_back(std::move(event));
    }
    started_ = true;
  }

  Run* run_;
  bool started_ = false;
  int64_t last_step_ = 0;
  double last_tokens_ = 0;
};

bool is_start(std::string_view text) {
  Json json;
  std::string reason;
  return try_parse_json(text, &json, &reason) && json.is_object() && json.contains("kind") && json["kind"] == "start";
}

}  // namespace

std::vector<std::string> Run::tasks() const {
  std::set<std::string> names;
  for (const Step& step : steps) {
    for (const auto& [task, value] : step.skill) names.insert(task);
  }
  return {names.begin(), names.end()};
}

Run read_run(const fs::path& folder_or_metrics) {
  const bool folder = fs::is_directory(folder_or_metrics);
  const fs::path metrics = folder ? folder_or_metrics / "metrics.jsonl" : folder_or_metrics;
  if (!fs::exists(metrics))
    throw UserError("{}: the folder holds no metrics.jsonl; a run folder is what `cairn train` writes", folder_or_metrics.string());
  const std::string text = read_file(metrics, int64_t{2} << 30);
  if (text.empty()) throw UserError("{}: the file is empty; nothing has been trained in this folder yet", metrics.string());

  Run run;
  run.source = folder_or_metrics.string();
  RunReader reader(&run);
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    const bool whole = end != std::string::npos;
    const std::string_view line = std::string_view(text).substr(begin, (whole ? end : text.size()) - begin);
    begin = whole ? end + 1 : text.size();
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}, line {}", metrics.string(), number);
    Json json;
    std::string reason;
    if (!try_parse_json(line, &json, &reason)) {
      // A crash cuts the line that was being written; after a resume the next one is a start.
      const std::string_view next = std::string_view(text).substr(begin, std::min(text.find('\n', begin), text.size()) - begin);
      if (whole && !is_start(next)) throw UserError("{}: {}", where, reason);
      run.notes.push_back(fmt::format("Line {} of metrics.jsonl is cut off, as a crash leaves it; it is left out.", number));
      continue;
    }
    reader.add(Fields(json, where));
  }
  reader.finish();
  if (const fs::path toml = metrics.parent_path() / "config.toml"; fs::is_regular_file(toml))
    run.config_toml = read_file(toml, int64_t{1} << 20);
  return run;
}

}  // namespace cairn::report
