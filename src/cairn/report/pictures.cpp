// Pictures that stand alone, for a README or a paper: white background, fixed colours, a title inside.
#include <algorithm>

#include "cairn/report/figures.h"

namespace cairn::report {
namespace {

constexpr double kMargin = 24;

// Lays drawings out in rows of `columns`, with the margin between and around them.
std::string arrange(const std::vector<Svg>& parts, size_t columns, const std::string& title, const std::string& description,
                    const Svg* legend) {
  double cell_width = 0, cell_height = 0;
  for (const Svg& part : parts) {
    cell_width = std::max(cell_width, part.width());
    cell_height = std::max(cell_height, part.height());
  }
  columns = std::max<size_t>(1, std::min(columns, parts.size()));
  const size_t rows = (parts.size() + columns - 1) / columns;
  const double width = kMargin + static_cast<double>(columns) * (cell_width + kMargin);
  const double extra = legend ? legend->height() + kMargin : 0;
  Svg all(width, kMargin + static_cast<double>(rows) * (cell_height + kMargin) + extra, paper_theme(), "picture", title, description);
  for (size_t i = 0; i < parts.size(); ++i) {
    all.append(parts[i], kMargin + static_cast<double>(i % columns) * (cell_width + kMargin),
               kMargin + static_cast<double>(i / columns) * (cell_height + kMargin));
  }
  if (legend) all.append(*legend, kMargin, all.height() - legend->height() - kMargin / 2);
  return all.finish();
}

}  // namespace

std::string accuracy_picture(const std::vector<Evaluation>& evaluations) {
  std::vector<Svg> parts;
  std::string description;
  const std::vector<Chart> charts = accuracy_overview(evaluations);
  for (const Chart& chart : charts) {
    const Size size = charts.size() == 1 ? Size{900, 430, 14, true} : Size{520, 340, 13, true};
    parts.push_back(draw_chart(chart, size, paper_theme(), fmt::format("chart{}", parts.size())));
    description += chart.description;
  }
  return arrange(parts, 2, "Accuracy over length", description, nullptr);
}

std::string heatmap_picture(const std::vector<Evaluation>& evaluations) {
  std::vector<Svg> parts;
  const bool one = evaluations.size() == 1;
  size_t tasks = 1;
  for (const Evaluation& e : evaluations) {
    tasks = std::max(tasks, e.tasks().size());
    for (const std::string& task : e.tasks()) {
      Svg map = draw_heatmap(e, task, {400, 0, 13, true}, paper_theme(), fmt::format("map{}", parts.size()));
      if (!one) map.text(map.width(), 18, e.label, 12, Anchor::kEnd, paper_theme().muted);
      parts.push_back(std::move(map));
    }
  }
  const Svg legend = draw_heat_legend(paper_theme(), "scale");
  return arrange(parts, std::min<size_t>(tasks, 3), "Accuracy by depth and length", "One map a task; rows are depths, columns lengths.",
                 &legend);
}

}  // namespace cairn::report
