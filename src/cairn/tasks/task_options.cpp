#include <algorithm>
#include <charconv>
#include <cmath>

#include "cairn/core/error.h"
#include "cairn/tasks/mix.h"
#include "cairn/tasks/task_set.h"
#include "cairn/tasks/word_pairs.h"

namespace cairn {
namespace {

// "dense_chains:0.32" -> name and share.
std::pair<std::string, double> parse_share(const std::string& entry) {
  const size_t colon = entry.rfind(':');
  const std::string name = entry.substr(0, colon);
  const std::vector<std::string> tasks = TaskSet::training_tasks();
  if (std::find(tasks.begin(), tasks.end(), name) == tasks.end()) {
    const std::string nearest = nearest_name(name, tasks);
    throw UserError("tasks.mix: there is no task '{}'{}", name, nearest.empty() ? std::string() : "; did you mean '" + nearest + "'?");
  }
  double share = 0;
  const char* end = entry.data() + entry.size();
  const char* begin = colon == std::string::npos ? end : entry.data() + colon + 1;
  const auto [rest, error] = std::from_chars(begin, end, share);
  if (error != std::errc() || rest != end) throw UserError("tasks.mix: '{}' is not TASK:SHARE, such as copy:0.08", entry);
  if (!std::isfinite(share) || share < 0)
    throw UserError("tasks.mix: the share of '{}' must be a number of 0 or more, not {}", name, share);
  return {name, share};
}

}  // namespace

std::vector<std::pair<std::string, double>> parse_mix(const std::vector<std::string>& entries) {
  std::vector<std::pair<std::string, double>> mix;
  double total = 0;
  for (const std::string& entry : entries) {
    mix.push_back(parse_share(entry));
    total += mix.back().second;
    for (size_t i = 0; i + 1 < mix.size(); ++i) {
      if (mix[i].first == mix.back().first) throw UserError("tasks.mix: '{}' is given twice", mix[i].first);
    }
  }
  if (!(total > 0) || !std::isfinite(total)) throw UserError("tasks.mix: all shares are 0; at least one task needs a share above 0");
  for (auto& [name, share] : mix) share /= total;
  return mix;
}

void TaskOptions::declare(OptionTable& table, const std::string& section) {
  std::string names;
  for (const std::string& name : TaskSet::training_tasks()) names += (names.empty() ? "" : ", ") + name;
  table.add(section + ".mix", &mix, "shares of training samples, \"task:share\", normalised to sum 1; tasks: " + names);
  table.add(section + ".answer_weight", &answer_weight, "loss weight of an answer token; every other token counts 1", 0, 1e6);
  table.add(section + ".pair_needles", &pair_needles,
            "word_pairs: needles in a training sequence, and rivals in 128 tokens of its evaluation haystack", 1,
            static_cast<double>(WordPairs::kMaximumNeedles));
}

std::vector<std::string> TaskSet::training_tasks() {
  return {"text",          "copy",         "single_needle", "multi_query", "variable_tracking", "variable_tracking_2",
          "dense_needles", "dense_chains", "word_pairs"};
}

std::vector<std::string> TaskSet::eval_tasks() {
  return {"single_needle", "multi_query", "variable_tracking", "variable_tracking_2", "word_pairs"};
}

}  // namespace cairn
