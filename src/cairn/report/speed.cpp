// Speed and memory of evaluations over length.
#include <algorithm>
#include <cmath>
#include <functional>

#include "cairn/core/files.h"
#include "cairn/report/figures.h"

namespace cairn::report {
namespace {

using Value = std::function<double(const Cell&)>;
using Words = std::function<std::string(double)>;

// One line a task (one model) or a model and task (several); `what` words a value for the tip.
void add_lines(const std::vector<Evaluation>& evaluations, const Value& value, const Words& what, const std::string& dash, bool named,
               Chart* chart) {
  const bool one = evaluations.size() == 1;
  for (size_t i = 0; i < evaluations.size(); ++i) {
    const std::vector<std::string> tasks = evaluations[i].tasks();
    for (size_t t = 0; t < tasks.size(); ++t) {
      Series s;
      if (named) s.name = one ? pretty_task(tasks[t]) : t == 0 ? evaluations[i].label : "";
      s.color = one ? t : i;
      s.shape = t;
      s.markers = true;
      s.dash = dash;
      s.hollow = !dash.empty();
      s.width = 1.6;
      for (const Cell& cell : evaluations[i].cells) {
        const double y = value(cell);
        if (cell.task != tasks[t] || !std::isfinite(y)) continue;
        s.points.push_back(
            {static_cast<double>(cell.length), y, kMissing, kMissing,
             fmt::format("{}, {}, {} tokens\n{}", evaluations[i].label, pretty_task(cell.task), format_length(cell.length), what(y))});
      }
      if (!s.points.empty()) chart->series.push_back(std::move(s));
    }
  }
}

Chart over_length(const std::vector<Evaluation>& evaluations, const std::string& title, const std::string& unit,
                  const std::string& description) {
  Chart chart;
  chart.title = title;
  chart.x = length_axis(evaluations);
  chart.y = {unit, Format::kCount, true, {}, {}, {}};
  chart.description = description;
  return chart;
}

}  // namespace

Chart reading_speed(const std::vector<Evaluation>& evaluations) {
  Chart chart = over_length(evaluations, "Reading", "tokens a second", "Tokens read a second, over the length of the text.");
  add_lines(
      evaluations, [](const Cell& cell) { return cell.tokens_per_second; },
      [](double y) { return format_value(y, Format::kCount) + " tokens a second"; }, "", true, &chart);
  return chart;
}

Chart decoding_time(const std::vector<Evaluation>& evaluations) {
  Chart chart = over_length(evaluations, "Generating", "milliseconds a token",
                            "Milliseconds for one generated token, one text alone, over the length of the text in front of it.");
  add_lines(
      evaluations, [](const Cell& cell) { return cell.decode_milliseconds; },
      [](double y) { return fmt::format("{:.3g} ms a generated token", y); }, "", true, &chart);
  return chart;
}

Chart memory_use(const std::vector<Evaluation>& evaluations) {
  Chart chart = over_length(evaluations, "Memory", "bytes",
                            "Bytes of what is kept of the texts read together, and the most that the GPU held, over the length of a text.");
  add_lines(
      evaluations, [](const Cell& cell) { return cell.state_bytes > 0 ? cell.state_bytes : kMissing; },
      [](double y) { return format_bytes(y) + " kept of the texts read together"; }, "", true, &chart);
  add_lines(
      evaluations, [](const Cell& cell) { return cell.device_peak_bytes > 0 ? cell.device_peak_bytes : kMissing; },
      [](double y) { return format_bytes(y) + " held by the GPU at the most"; }, "6 4", false, &chart);
  return chart;
}

}  // namespace cairn::report
