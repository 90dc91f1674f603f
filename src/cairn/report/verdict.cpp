#include <algorithm>
#include <cmath>
#include <map>

#include "cairn/report/chart.h"
#include "cairn/report/summary.h"

namespace cairn::report {
namespace {

// Values of a group of cells: "100, 98 and 96 %", or "100 %" if all are equal.
std::string list_percent(const std::vector<double>& shares) {
  std::vector<std::string> words;
  for (const double share : shares) words.push_back(percent_number(share));
  if (std::all_of(words.begin(), words.end(), [&](const std::string& w) { return w == words[0]; })) return words[0] + " %";
  return join_words(words) + " %";
}

std::string sample_counts(const std::vector<const Cell*>& cells) {
  const auto [least, most] =
      std::minmax_element(cells.begin(), cells.end(), [](const Cell* a, const Cell* b) { return a->forced.samples < b->forced.samples; });
  if ((*least)->forced.samples == (*most)->forced.samples) return fmt::format("N = {}", (*least)->forced.samples);
  return fmt::format("N = {} to {}", (*least)->forced.samples, (*most)->forced.samples);
}

// What the same model answers there through its window alone.
std::string floors(const std::vector<const Cell*>& cells) {
  double low = kMissing, high = kMissing;
  size_t measured = 0;
  for (const Cell* cell : cells) {
    if (!cell->floor || cell->floor->samples == 0) continue;
    low = std::fmin(low, cell->floor->accuracy);
    high = std::fmax(high, cell->floor->accuracy);
    ++measured;
  }
  if (measured == 0) return "what it would answer with its memory off was not measured";
  const std::string range = low == high ? percent(low) : fmt::format("{} to {}", percent_number(low), percent(high));
  return fmt::format("with its memory off {}{}", range,
                     measured < cells.size() ? fmt::format(" (measured on {} of {} tasks)", measured, cells.size()) : "");
}

// The tasks that reach the same length: "a and b in texts of up to 1M tokens, 256 times that length: 100 and 98 % right".
std::string clause(const Evaluation& e, const std::vector<Reach>& group, bool first) {
  std::vector<std::string> names, dips;
  std::vector<double> shares, generated;
  for (const Reach& r : group) {
    names.push_back(pretty_task(r.task));
    shares.push_back(r.longest->forced.accuracy);
    if (r.longest->generated && r.longest->generated->samples > 0) generated.push_back(r.longest->generated->accuracy);
    if (r.dip) {
      dips.push_back(fmt::format("{}{} at {}", group.size() > 1 ? pretty_task(r.task) + " " : "", percent(r.dip->forced.accuracy),
                                 format_length(r.dip->length)));
    }
  }
  const int64_t length = group[0].longest->length;
  const std::string times = times_training(e, length);
  std::string text = fmt::format("{}{} tokens", first ? "in texts of up to " : "up to ", format_length(length));
  if (e.training_length && length == *e.training_length) {
    text += ", its training length";
  } else if (!times.empty()) {
    text += fmt::format(", {} {}", times, first ? "that length" : "its training length");
  }
  text = fmt::format("{} {}: {} right", join_words(names), text, list_percent(shares));
  if (generated.size() == group.size() && *std::min_element(generated.begin(), generated.end()) < kGood) {
    text += fmt::format(" ({} when generating)", list_percent(generated));
  }
  if (!dips.empty()) text += ", but " + join_words(dips);
  return text;
}

}  // namespace

std::string join_words(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) text += (i == 0 ? "" : i + 1 == words.size() ? " and " : ", ") + words[i];
  return text;
}

std::string thousands(int64_t value) {
  std::string digits = std::to_string(value);
  for (int64_t i = static_cast<int64_t>(digits.size()) - 3; i > (value < 0 ? 1 : 0); i -= 3) digits.insert(static_cast<size_t>(i), ",");
  return digits;
}

std::string times_training(const Evaluation& e, int64_t length) {
  if (!e.training_length) return {};
  const double ratio = static_cast<double>(length) / static_cast<double>(*e.training_length);
  if (length % *e.training_length == 0) return thousands(length / *e.training_length) + (ratio == 1 ? " time" : " times");
  return ratio >= 100 ? thousands(std::llround(ratio)) + " times" : fmt::format("{:.3g} times", ratio);
}

std::vector<Reach> reaches(const Evaluation& e) {
  std::vector<Reach> all;
  for (const std::string& task : e.tasks()) {
    Reach reach{task};
    for (const Cell& cell : e.cells) {
      if (cell.task != task || cell.forced.samples == 0) continue;
      if (!reach.best || cell.forced.accuracy > reach.best->forced.accuracy) reach.best = &cell;
      if (cell.forced.accuracy >= kGood && (!reach.longest || cell.length > reach.longest->length)) reach.longest = &cell;
    }
    for (const Cell& cell : e.cells) {
      if (!reach.longest || cell.task != task || cell.forced.samples == 0 || cell.length >= reach.longest->length) continue;
      if (cell.forced.accuracy < kGood && (!reach.dip || cell.forced.accuracy < reach.dip->forced.accuracy)) reach.dip = &cell;
    }
    all.push_back(reach);
  }
  return all;
}

std::string verdict(const Evaluation& e) {
  std::map<int64_t, std::vector<Reach>, std::greater<>> groups;
  std::vector<std::string> failed, unmeasured;
  for (const Reach& reach : reaches(e)) {
    if (reach.longest) {
      groups[reach.longest->length].push_back(reach);
    } else if (reach.best) {
      failed.push_back(fmt::format("{} (at best {} of {}, at {} tokens)", pretty_task(reach.task), reach.best->forced.correct,
                                   reach.best->forced.samples, format_length(reach.best->length)));
    } else {
      unmeasured.push_back(pretty_task(reach.task));
    }
  }
  const std::string who =
      e.training_length ? fmt::format("Trained on texts of {} tokens, {}", format_length(*e.training_length), e.label) : e.label;
  if (groups.empty() && failed.empty()) return who + " has not been measured yet: the evaluation holds no samples.";
  std::string text;
  std::vector<const Cell*> cells;
  for (const auto& [length, group] : groups) {
    text += (text.empty() ? " answers " : "; ") + clause(e, group, text.empty());
    for (const Reach& reach : group) cells.push_back(reach.longest);
  }
  if (!failed.empty()) {
    text +=
        fmt::format("{} {:.0f} % at no length tested on {}", groups.empty() ? " reaches" : "; it reaches", kGood * 100, join_words(failed));
  }
  if (!cells.empty()) text += fmt::format(" ({}; {})", sample_counts(cells), floors(cells));
  if (!unmeasured.empty()) text += fmt::format("; {} not measured", join_words(unmeasured));
  return who + text + ".";
}

std::string verdict(const Run& run) {
  if (run.steps.empty()) return fmt::format("Run {} has not trained a step yet.", run.label);
  const Step& last = run.steps.back();
  std::string text = fmt::format("Run {} has trained on {} tokens", run.label, format_value(last.tokens, Format::kCount));
  double longest = kMissing;
  for (const Step& s : run.steps) longest = std::fmax(longest, s.length);
  if (std::isfinite(longest)) text += fmt::format(" in texts of up to {}", format_value(longest, Format::kLength));
  const double loss = std::isfinite(last.cross_entropy) ? last.cross_entropy : last.loss;
  if (std::isfinite(loss))
    text += fmt::format("; {} {:.3g} at the end", std::isfinite(last.cross_entropy) ? "cross-entropy" : "loss", loss);
  std::vector<std::string> skills;
  for (const auto& [task, value] : last.skill) skills.push_back(fmt::format("{} {}", pretty_task(task), percent(value)));
  if (!skills.empty()) text += "; skill on training texts: " + join_words(skills);
  return text + ".";
}

std::string verdict(const ReportData& data) {
  std::string text;
  for (const Evaluation& e : data.evaluations) text += (text.empty() ? "" : " ") + verdict(e);
  for (const Perplexity& p : data.perplexities) text += (text.empty() ? "" : " ") + verdict(p);
  if (!text.empty()) return text;
  for (const Run& run : data.runs) text += (text.empty() ? "" : " ") + verdict(run);
  return text + " Nothing has been evaluated yet.";
}

}  // namespace cairn::report
