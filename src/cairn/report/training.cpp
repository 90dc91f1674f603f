// Curves of training runs. Steps are thinned to some hundred points: the mean as a line, the extremes as a band behind it.
#include <algorithm>
#include <cmath>

#include "cairn/report/figures.h"

namespace cairn::report {
namespace {

constexpr size_t kBuckets = 200;

template <typename Value>
Series curve(const Run& run, const std::string& name, size_t color, Value value, Spread spread = Spread::kBand) {
  std::vector<std::pair<double, double>> values;
  values.reserve(run.steps.size());
  for (const Step& step : run.steps) values.emplace_back(step.tokens, value(step));
  Series s;
  s.name = name;
  s.color = color;
  s.width = 1.7;
  s.spread = spread;
  s.points = thin_out(values, kBuckets);
  return s;
}

bool any_value(const Series& s) {
  return std::any_of(s.points.begin(), s.points.end(), [](const Point& p) { return std::isfinite(p.y); });
}

bool any_nonzero(const Series& s) {
  return std::any_of(s.points.begin(), s.points.end(), [](const Point& p) { return std::isfinite(p.y) && p.y != 0; });
}

std::vector<Mark> event_marks(const Run& run) {
  std::vector<Mark> marks;
  for (const Event& event : run.events) {
    if (event.kind == "end" || (event.kind == "phase" && event.tokens <= 0)) continue;
    std::string label = event.kind;
    const size_t at = event.text.find("length ");
    if (event.kind == "phase" && at != std::string::npos) label = "length " + event.text.substr(at + 7, event.text.find(',', at) - at - 7);
    if (event.kind == "spike") label.clear();
    marks.push_back(
        {event.tokens, label,
         fmt::format("{} at step {}, {} tokens\n{}", event.kind, event.step, format_value(event.tokens, Format::kCount), event.text),
         false});
  }
  if (marks.size() > 60) marks.erase(marks.begin() + 60, marks.end());
  return marks;
}

Chart over_tokens(const std::string& title, const std::string& y_label, const Run& run) {
  Chart chart;
  chart.title = title;
  chart.x = {"tokens trained on", Format::kCount, false, {}, 0.0, {}};
  chart.y.label = y_label;
  chart.marks = event_marks(run);
  chart.description = fmt::format("{} of run {} over the tokens trained on.", title, run.label);
  return chart;
}

// A logarithmic axis when the values are positive and span more than a factor of twenty.
void choose_log(Chart* chart) {
  double low = std::numeric_limits<double>::infinity(), high = 0;
  for (const Series& s : chart->series) {
    for (const Point& p : s.points) {
      if (!std::isfinite(p.y)) continue;
      if (p.y <= 0) return;
      low = std::min(low, p.y);
      high = std::max(high, p.y);
    }
  }
  chart->y.log = high > 20 * low;
}

void keep(Chart chart, std::vector<Chart>* charts) {
  std::erase_if(chart.series, [](const Series& s) { return !any_value(s); });
  if (!chart.empty()) charts->push_back(std::move(chart));
}

// The last value of every line as a sentence, for those who cannot see the picture.
void describe_ends(Chart* chart) {
  for (const Series& s : chart->series) {
    for (auto it = s.points.rbegin(); it != s.points.rend(); ++it) {
      if (!std::isfinite(it->y)) continue;
      chart->description += fmt::format(" {} ends at {}.", s.name, format_value(it->y, chart->y.format));
      break;
    }
  }
}

double mean_skill(const Step& step) {
  double sum = 0;
  for (const auto& [task, value] : step.skill) sum += value;
  return step.skill.empty() ? kMissing : sum / static_cast<double>(step.skill.size());
}

}  // namespace

std::vector<Chart> training_charts(const Run& run) {
  std::vector<Chart> charts;
  Chart loss = over_tokens("Loss", "nats a token", run);
  loss.series.push_back(curve(run, "loss", 0, [](const Step& s) { return s.loss; }));
  loss.series.push_back(curve(run, "cross-entropy", 1, [](const Step& s) { return s.cross_entropy; }));
  Series validation;
  validation.name = "validation";
  validation.color = validation.shape = 2;
  validation.markers = true;
  for (const auto& [tokens, value] : run.validation) {
    validation.points.push_back({tokens, value, kMissing, kMissing,
                                 fmt::format("validation loss {:.4g} at {} tokens", value, format_value(tokens, Format::kCount))});
  }
  loss.series.push_back(std::move(validation));
  choose_log(&loss);
  describe_ends(&loss);
  keep(std::move(loss), &charts);

  Chart skill = over_tokens("Skill", "answers all right", run);
  skill.y = {"answers all right", Format::kPercent, false, {0, .25, .5, .75, 1}, -0.02, 1.02};
  size_t color = 0;
  for (const std::string& task : run.tasks()) {
    skill.series.push_back(curve(run, pretty_task(task), color++, [&](const Step& s) {
      const auto it = s.skill.find(task);
      return it == s.skill.end() ? kMissing : it->second;
    }));
  }
  describe_ends(&skill);
  keep(std::move(skill), &charts);

  Chart recall = over_tokens("Recall of the source chunk", "share found", run);
  recall.y = {"share found", Format::kPercent, false, {0, .25, .5, .75, 1}, -0.02, 1.02};
  size_t retrievals = 0;
  for (const Step& s : run.steps) retrievals = std::max(retrievals, s.recall.size());
  for (size_t r = 0; r < std::min<size_t>(retrievals, 8); ++r) {
    const std::string suffix = retrievals == 1 ? "" : fmt::format(", retrieval {}", r + 1);
    recall.series.push_back(
        curve(run, "among the chosen" + suffix, r, [r](const Step& s) { return r < s.recall.size() ? s.recall[r] : kMissing; }));
    recall.series.push_back(curve(
        run, "first" + suffix, r, [r](const Step& s) { return r < s.recall_top1.size() ? s.recall_top1[r] : kMissing; }, Spread::kNone));
    recall.series.back().dash = "5 3";
    recall.series.back().width = 1.3;
  }
  describe_ends(&recall);
  keep(std::move(recall), &charts);

  Chart extra = over_tokens("Losses of the retrieval", "nats", run);
  extra.series.push_back(curve(run, "route", 0, [](const Step& s) { return s.route; }));
  extra.series.push_back(curve(run, "distillation", 1, [](const Step& s) { return s.distillation; }));
  std::erase_if(extra.series, [](const Series& s) { return !any_nonzero(s); });
  choose_log(&extra);
  describe_ends(&extra);
  keep(std::move(extra), &charts);

  std::vector<std::string> names;
  for (const Step& s : run.steps) {
    for (const auto& [task, value] : s.loss_by_task) {
      if (std::find(names.begin(), names.end(), task) == names.end()) names.push_back(task);
    }
  }
  Chart by_task = over_tokens("Loss by task", "nats a token", run);
  for (size_t i = 0; i < names.size(); ++i) {
    by_task.series.push_back(curve(
        run, pretty_task(names[i]), i,
        [&](const Step& s) {
          const auto it = s.loss_by_task.find(names[i]);
          return it == s.loss_by_task.end() ? kMissing : it->second;
        },
        Spread::kNone));
  }
  choose_log(&by_task);
  describe_ends(&by_task);
  keep(std::move(by_task), &charts);

  Chart rate = over_tokens("Learning rate", "step size", run);
  rate.y.low = 0;
  rate.series.push_back(curve(
      run, "learning rate", 0, [](const Step& s) { return s.lr; }, Spread::kNone));
  describe_ends(&rate);
  keep(std::move(rate), &charts);

  Chart fade = over_tokens("Alpha and beta", "weight", run);
  fade.y.low = 0;
  fade.series.push_back(curve(
      run, "alpha (exact mass)", 0, [](const Step& s) { return s.alpha; }, Spread::kNone));
  fade.series.push_back(curve(
      run, "beta (residual)", 1, [](const Step& s) { return s.beta; }, Spread::kNone));
  fade.series.back().dash = "6 3";
  describe_ends(&fade);
  if (any_nonzero(fade.series[0]) || any_nonzero(fade.series[1])) keep(std::move(fade), &charts);

  Chart norm = over_tokens("Gradient norm", "before clipping", run);
  norm.series.push_back(curve(run, "gradient norm", 0, [](const Step& s) { return s.grad_norm; }));
  choose_log(&norm);
  describe_ends(&norm);
  keep(std::move(norm), &charts);
  return charts;
}

std::vector<Chart> comparison_charts(const std::vector<Run>& runs) {
  std::vector<Chart> charts;
  if (runs.size() < 2) return charts;
  Run none;
  Chart loss = over_tokens("Cross-entropy, all runs", "nats a token", none),
        skill = over_tokens("Mean skill, all runs", "answers all right", none);
  loss.description = "Cross-entropy over the tokens trained on, one line a run.";
  skill.description = "Mean skill over the tokens trained on, one line a run.";
  skill.y = {"answers all right", Format::kPercent, false, {0, .25, .5, .75, 1}, -0.02, 1.02};
  for (size_t i = 0; i < runs.size(); ++i) {
    loss.series.push_back(curve(
        runs[i], runs[i].label, i, [](const Step& s) { return std::isfinite(s.cross_entropy) ? s.cross_entropy : s.loss; }, Spread::kNone));
    skill.series.push_back(curve(runs[i], runs[i].label, i, mean_skill, Spread::kNone));
  }
  choose_log(&loss);
  describe_ends(&loss);
  describe_ends(&skill);
  keep(std::move(loss), &charts);
  keep(std::move(skill), &charts);
  return charts;
}

Chart training_speed(const std::vector<Run>& runs) {
  Chart chart = over_tokens("Training", "tokens a second", runs.size() == 1 ? runs[0] : Run{});
  chart.y.format = Format::kCount;
  chart.y.low = 0;
  chart.description = "Training speed in tokens a second.";
  for (size_t i = 0; i < runs.size(); ++i) {
    Series s = curve(
        runs[i], runs[i].label, i, [](const Step& step) { return step.tokens_per_second; }, Spread::kNone);
    if (any_value(s)) chart.series.push_back(std::move(s));
  }
  describe_ends(&chart);
  return chart;
}

}  // namespace cairn::report
