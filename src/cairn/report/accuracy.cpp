// Accuracy, recall and reading speed over length.
#include <algorithm>
#include <cmath>
#include <set>

#include "cairn/report/figures.h"

namespace cairn::report {
namespace {

Axis share_axis(const std::string& label) { return {label, Format::kPercent, false, {0, .2, .4, .6, .8, 1}, -0.03, 1.03}; }

std::vector<Mark> training_marks(const std::vector<Evaluation>& evaluations) {
  std::set<int64_t> lengths;
  for (const Evaluation& e : evaluations) {
    if (e.training_length && !e.cells.empty()) lengths.insert(*e.training_length);
  }
  std::vector<Mark> marks;
  for (const int64_t length : lengths) {
    const std::string text = fmt::format("trained on {}", format_length(length));
    marks.push_back({static_cast<double>(length), text, text + " tokens; everything to the right is longer than any training text", true});
  }
  return marks;
}

std::string score_tip(const Cell& cell, const Score& score, const std::string& what, const std::string& model) {
  return fmt::format("{}{}, {} tokens\n{}: {} ({} of {}; 95 % interval {} to {})", model.empty() ? "" : model + "\n",
                     pretty_task(cell.task), format_length(cell.length), what, percent(score.accuracy), score.correct, score.samples,
                     percent(score.interval.low), percent(score.interval.high));
}

enum class Way { kForced, kGenerated, kFloor };

const Score* score_of(const Cell& cell, Way way) {
  if (way == Way::kForced) return &cell.forced;
  const std::optional<Score>& score = way == Way::kGenerated ? cell.generated : cell.floor;
  return score ? &*score : nullptr;
}

std::vector<Point> points_of(const Evaluation& e, const std::string& task, Way way, const std::string& model) {
  static const char* const kNames[] = {"teacher-forced", "generated", "window only"};
  std::vector<Point> points;
  for (const Cell& cell : e.cells) {
    if (cell.task != task) continue;
    const Score* score = score_of(cell, way);
    Point p{static_cast<double>(cell.length), kMissing};
    if (score && score->samples > 0) {
      p.y = score->accuracy;
      p.low = score->interval.low;
      p.high = score->interval.high;
      p.tip = score_tip(cell, *score, kNames[static_cast<int>(way)], model);
    }
    points.push_back(p);
  }
  return points;
}

bool any(const std::vector<Point>& points) {
  return std::any_of(points.begin(), points.end(), [](const Point& p) { return std::isfinite(p.y); });
}

std::vector<Point> chance_points(const Evaluation& e, const std::string& task) {
  std::vector<Point> points;
  for (const Cell& cell : e.cells) {
    if (cell.task == task && std::isfinite(cell.chance)) points.push_back({static_cast<double>(cell.length), cell.chance});
  }
  return points;
}

// A line in the legend that explains a way of drawing.
Series key(const std::string& name, const std::string& dash, double width, bool markers, bool hollow) {
  Series s;
  s.name = name;
  s.dash = dash;
  s.width = width;
  s.markers = markers;
  s.hollow = hollow;
  s.muted = true;
  return s;
}

struct Drawn {
  bool generated = false, floor = false, chance = false;
};

// Adds the four lines of one model and task; `name` goes into the legend.
void add_lines(const Evaluation& e, const std::string& task, const std::string& name, size_t color, Spread spread, double dodge,
               const std::string& model, Chart* chart, Drawn* drawn) {
  Series forced;
  forced.points = points_of(e, task, Way::kForced, model);
  if (forced.points.empty()) return;
  forced.name = name;
  forced.color = color;
  forced.width = 2.2;
  forced.markers = true;
  forced.shape = color;
  forced.spread = spread;
  forced.dodge = dodge;
  Series chance;
  chance.points = chance_points(e, task);
  chance.muted = true;
  chance.width = 1.4;
  chance.dash = "1 4";
  Series floor = forced;
  floor.name.clear();
  floor.points = points_of(e, task, Way::kFloor, model);
  floor.dash = "6 4";
  floor.width = 1.4;
  floor.spread = Spread::kNone;
  floor.markers = false;
  Series generated = floor;
  generated.points = points_of(e, task, Way::kGenerated, model);
  generated.dash.clear();
  generated.width = 1;
  generated.markers = true;
  generated.hollow = true;
  generated.dodge = dodge + 3;
  drawn->chance |= any(chance.points);
  drawn->floor |= any(floor.points);
  drawn->generated |= any(generated.points);
  if (any(chance.points)) chart->series.push_back(std::move(chance));
  if (any(floor.points)) chart->series.push_back(std::move(floor));
  if (any(generated.points)) chart->series.push_back(std::move(generated));
  chart->series.push_back(std::move(forced));
}

void add_keys(const Drawn& drawn, Chart* chart) {
  chart->series.push_back(key("teacher-forced", "", 2.2, true, false));
  chart->series.back().new_row = true;
  if (drawn.generated) chart->series.push_back(key("generated", "", 1, true, true));
  if (drawn.floor) chart->series.push_back(key("window only", "6 4", 1.4, false, false));
  if (drawn.chance) chart->series.push_back(key("chance", "1 4", 1.4, false, false));
}

std::string describe(const std::vector<Evaluation>& evaluations, const std::vector<std::string>& tasks) {
  std::string text;
  for (const Evaluation& e : evaluations) {
    for (const std::string& task : tasks) {
      std::string values;
      for (const Cell& cell : e.cells) {
        if (cell.task == task)
          values += fmt::format("{}{} at {}", values.empty() ? "" : ", ", percent(cell.forced.accuracy), format_length(cell.length));
      }
      if (!values.empty()) text += fmt::format("{}, {}: {}. ", e.label, pretty_task(task), values);
    }
  }
  return text;
}

}  // namespace

Axis length_axis(const std::vector<Evaluation>& evaluations) {
  Axis axis{"length of the text, tokens", Format::kLength, true, {}, {}, {}};
  std::set<int64_t> lengths;
  for (const Evaluation& e : evaluations) {
    for (const Cell& cell : e.cells) lengths.insert(cell.length);
  }
  for (const int64_t length : lengths) axis.ticks.push_back(static_cast<double>(length));
  return axis;
}

std::vector<std::string> all_tasks(const std::vector<Evaluation>& evaluations) {
  std::vector<std::string> names;
  for (const Evaluation& e : evaluations) {
    for (const std::string& task : e.tasks()) {
      if (std::find(names.begin(), names.end(), task) == names.end()) names.push_back(task);
    }
  }
  return names;
}

Chart accuracy_of_task(const std::vector<Evaluation>& evaluations, const std::string& task) {
  Chart chart;
  chart.title = pretty_task(task);
  chart.x = length_axis(evaluations);
  chart.y = share_axis("answers all right");
  chart.marks = training_marks(evaluations);
  chart.description = describe(evaluations, {task});
  const bool one = evaluations.size() == 1;
  Drawn drawn;
  for (size_t i = 0; i < evaluations.size(); ++i) {
    const double dodge = one ? 0 : (static_cast<double>(i) - static_cast<double>(evaluations.size() - 1) / 2) * 4;
    add_lines(evaluations[i], task, one ? "" : evaluations[i].label, i, one ? Spread::kBand : Spread::kWhiskers, dodge,
              one ? "" : evaluations[i].label, &chart, &drawn);
  }
  add_keys(drawn, &chart);
  return chart;
}

std::vector<Chart> accuracy_overview(const std::vector<Evaluation>& evaluations) {
  std::vector<Chart> charts;
  const std::vector<std::string> tasks = all_tasks(evaluations);
  if (evaluations.size() != 1 || tasks.size() == 1) {
    for (const std::string& task : tasks) charts.push_back(accuracy_of_task(evaluations, task));
    return charts;
  }
  Chart chart;
  chart.title = "Accuracy over length";
  chart.x = length_axis(evaluations);
  chart.y = share_axis("answers all right");
  chart.marks = training_marks(evaluations);
  chart.description = describe(evaluations, tasks);
  Drawn drawn;
  for (size_t i = 0; i < tasks.size(); ++i) {
    const double dodge = (static_cast<double>(i) - static_cast<double>(tasks.size() - 1) / 2) * 7;
    add_lines(evaluations[0], tasks[i], pretty_task(tasks[i]), i, Spread::kWhiskers, dodge, "", &chart, &drawn);
  }
  add_keys(drawn, &chart);
  charts.push_back(std::move(chart));
  return charts;
}

Chart recall_over_length(const Evaluation& e) {
  static const char* const kDashes[] = {"", "7 3", "3 3", "1 3"};
  Chart chart;
  chart.title = "Was the right chunk among the chosen?";
  chart.x = length_axis({e});
  chart.y = share_axis("recall of the source chunk");
  chart.marks = training_marks({e});
  chart.description = fmt::format("{}: recall of the chunk that holds the answer, over length.", e.label);
  const std::vector<std::string> tasks = e.tasks();
  for (size_t t = 0; t < tasks.size(); ++t) {
    size_t retrievals = 0;
    for (const Cell& cell : e.cells) retrievals = cell.task == tasks[t] ? std::max(retrievals, cell.recall.size()) : retrievals;
    for (size_t r = 0; r < std::min<size_t>(retrievals, 4); ++r) {
      Series s;
      s.name = retrievals == 1 ? pretty_task(tasks[t]) : fmt::format("{}, retrieval {}", pretty_task(tasks[t]), r + 1);
      s.color = s.shape = t;
      s.dash = kDashes[r];
      s.markers = true;
      s.hollow = r > 0;
      for (const Cell& cell : e.cells) {
        if (cell.task != tasks[t] || r >= cell.recall.size()) continue;
        s.points.push_back({static_cast<double>(cell.length), cell.recall[r], kMissing, kMissing,
                            fmt::format("{}, {} tokens\nrecall of retrieval {}: {}", pretty_task(cell.task), format_length(cell.length),
                                        r + 1, percent(cell.recall[r]))});
      }
      if (any(s.points)) chart.series.push_back(std::move(s));
    }
  }
  return chart;
}

}  // namespace cairn::report
