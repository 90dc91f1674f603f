// Which reader an input needs; files of one model become one evaluation; labels that tell models apart.
#include <algorithm>
#include <cmath>
#include <set>

#include "cairn/core/error.h"
#include "cairn/report/data.h"

namespace cairn::report {
namespace {

// "runs/demo/checkpoints/step-100" -> "demo": the last part of the path that names the model rather than its state.
std::string short_name(const std::string& path) {
  fs::path p = fs::path(path).lexically_normal();
  std::string name;
  while (!p.empty() && p != p.root_path()) {
    const std::string part = p.filename().string();
    const std::string stem = p.stem().string();
    const bool state = part.empty() || part == "." || stem == "model" || stem == "latest" || stem == "last" || stem == "final" ||
                       stem == "best" || stem == "checkpoint" || part == "checkpoints" || stem.rfind("step", 0) == 0 ||
                       part == "metrics.jsonl";
    if (name.empty() && !part.empty() && part != ".") name = part;
    if (!state) return part;
    p = p.parent_path();
  }
  return name.empty() ? "model" : name;
}

// Several files of one model (one task each, say) are one evaluation, unless they measured the same cell.
bool merge_into(Evaluation* target, const Evaluation& more) {
  if (target->fingerprint.empty() || target->fingerprint != more.fingerprint || target->model != more.model ||
      target->haystack != more.haystack || target->training_length != more.training_length) {
    return false;
  }
  for (const Cell& cell : more.cells) {
    if (target->find(cell.task, cell.length)) return false;
  }
  target->cells.insert(target->cells.end(), more.cells.begin(), more.cells.end());
  auto append = [](std::vector<std::string>* a, const std::vector<std::string>& b) { a->insert(a->end(), b.begin(), b.end()); };
  append(&target->sources, more.sources);
  append(&target->created, more.created);
  append(&target->commands, more.commands);
  if (target->seed != more.seed) target->seed += ", " + more.seed;
  return true;
}

void sort_cells(Evaluation* e) {
  const std::vector<std::string> order = e->tasks();
  auto rank = [&](const Cell& c) { return std::find(order.begin(), order.end(), c.task) - order.begin(); };
  std::stable_sort(e->cells.begin(), e->cells.end(),
                   [&](const Cell& a, const Cell& b) { return std::pair(rank(a), a.length) < std::pair(rank(b), b.length); });
}

template <typename Item, typename Hint>
void make_unique(std::vector<Item>* items, Hint hint) {
  for (size_t i = 0; i < items->size(); ++i) {
    std::vector<size_t> same;
    for (size_t j = i; j < items->size(); ++j) {
      if ((*items)[j].label == (*items)[i].label) same.push_back(j);
    }
    if (same.size() < 2) continue;
    std::set<std::string> used;
    int number = 0;
    for (size_t j : same) {
      std::string extra = hint((*items)[j]);
      ++number;
      if (!used.insert(extra).second) extra = fmt::format("{} {}", extra, number);
      used.insert(extra);
      (*items)[j].label += fmt::format(" ({})", extra);
    }
  }
}

}  // namespace

Interval wilson(int64_t correct, int64_t samples) {
  if (samples <= 0) return {0, 1};
  const double z = 1.959963984540054, n = static_cast<double>(samples), p = static_cast<double>(correct) / n;
  const double centre = (p + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z / (1 + z * z / n) * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  return {correct == 0 ? 0 : std::max(0.0, centre - half), correct == samples ? 1 : std::min(1.0, centre + half)};
}

std::vector<std::string> Evaluation::tasks() const {
  std::vector<std::string> names;
  for (const Cell& cell : cells) {
    if (std::find(names.begin(), names.end(), cell.task) == names.end()) names.push_back(cell.task);
  }
  return names;
}

std::vector<int64_t> Evaluation::lengths() const {
  std::set<int64_t> all;
  for (const Cell& cell : cells) all.insert(cell.length);
  return {all.begin(), all.end()};
}

const Cell* Evaluation::find(const std::string& task, int64_t length) const {
  for (const Cell& cell : cells) {
    if (cell.length == length && cell.task == task) return &cell;
  }
  return nullptr;
}

std::string pretty_task(const std::string& task) {
  std::string text = task;
  std::replace(text.begin(), text.end(), '_', ' ');
  return text;
}

ReportData read_inputs(const std::vector<fs::path>& inputs) {
  if (inputs.empty()) throw UserError("a report needs at least one input: a run folder or a file that `cairn eval ... --json FILE` wrote");
  ReportData data;
  for (const fs::path& input : inputs) {
    std::error_code error;
    const fs::file_status status = fs::status(input, error);
    if (!fs::exists(status)) throw UserError("{}: there is no such file or folder", input.string());
    if (fs::is_directory(status) || input.extension() == ".jsonl") {
      data.runs.push_back(read_run(input));
      data.runs.back().label = short_name(fs::absolute(input).string());
      continue;
    }
    if (is_perplexity(input)) {
      data.perplexities.push_back(read_perplexity(input));
      Perplexity& p = data.perplexities.back();
      p.label = p.model.empty() ? input.stem().string() : short_name(p.model);
      continue;
    }
    Evaluation e = read_evaluation(input);
    const bool merged = std::any_of(data.evaluations.begin(), data.evaluations.end(), [&](Evaluation& old) { return merge_into(&old, e); });
    if (!merged) {
      e.label = e.model.empty() ? input.stem().string() : short_name(e.model);
      data.evaluations.push_back(std::move(e));
    }
  }
  for (Evaluation& e : data.evaluations) sort_cells(&e);
  make_unique(&data.evaluations, [](const Evaluation& e) { return fs::path(e.sources.front()).stem().string(); });
  make_unique(&data.perplexities, [](const Perplexity& p) { return fs::path(p.source).stem().string(); });
  make_unique(&data.runs, [](const Run& r) { return r.source; });
  return data;
}

}  // namespace cairn::report
