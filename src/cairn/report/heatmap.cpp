// Depth x length: where in the text the needle stood, and whether it was found.
#include <algorithm>
#include <cmath>

#include "cairn/report/figures.h"

namespace cairn::report {
namespace {

// Never rounds up to 100 or down to 0.
std::string cell_number(int64_t correct, int64_t samples) {
  if (correct == samples) return "100";
  if (correct == 0) return "0";
  return fmt::format("{:.0f}", std::clamp(100.0 * static_cast<double>(correct) / static_cast<double>(samples), 1.0, 99.0));
}

}  // namespace

Svg draw_heatmap(const Evaluation& e, const std::string& task, const Size& size, const Theme& theme, const std::string& id) {
  std::vector<const Cell*> columns;
  for (const Cell& cell : e.cells) {
    if (cell.task == task) columns.push_back(&cell);
  }
  const double tick = size.font * 0.92, left = text_width("90-100 %", tick) + 6, top = (size.heading ? size.font * 2.4 : 2) + tick * 1.5;
  const double count = static_cast<double>(columns.size());
  const double pitch = std::clamp((size.width - left - 2) / std::max(count, 1.0), 28.0, 92.0), row = std::max(22.0, size.font * 1.8),
               gap = 6;
  const double width = left + pitch * count + 2;
  bool rotate = false;
  for (const Cell* cell : columns) rotate |= text_width(format_length(cell->length), tick) > pitch - 2;
  const double grid_bottom = top + row * (kDepthBins + 1) + gap;
  const double height = grid_bottom + tick * (rotate ? 4.6 : 1.5) + tick * 1.6;

  std::string description;
  for (const Cell* cell : columns)
    description += fmt::format("{} tokens: {} of {} right. ", format_length(cell->length), cell->forced.correct, cell->forced.samples);
  Svg svg(width, height, theme, id, fmt::format("{}: accuracy by depth and length", pretty_task(task)), description);
  if (size.heading) svg.text(0, size.font * 1.4, pretty_task(task), size.font * 1.2, Anchor::kStart, theme.ink, true);
  svg.text(0, top - tick * 0.6, "depth of the needle", tick, Anchor::kStart, theme.muted);

  for (int d = 0; d < kDepthBins; ++d) {
    svg.text(left - 7, top + row * (d + 0.5) + tick * 0.35, fmt::format("{}\u2013{} %", d * 10, d * 10 + 10), tick, Anchor::kEnd,
             theme.muted);
  }
  svg.text(left - 7, top + gap + row * (kDepthBins + 0.5) + tick * 0.35, "all", tick, Anchor::kEnd, theme.ink, true);

  const auto draw_cell = [&](double x, double y, int64_t samples, int64_t correct, const std::string& what) {
    if (samples == 0) {
      svg.begin_tip(what + "\nno sample");
      svg.rect(x, y, pitch - 2, row - 2, svg.hatch(), 2);
      svg.end_group();
      return;
    }
    const double share = static_cast<double>(correct) / static_cast<double>(samples);
    const Interval interval = wilson(correct, samples);
    const auto [fill, ink] = heat_colors(share);
    svg.begin_tip(fmt::format("{}\n{} of {} right: {} (95 % interval {} to {})", what, correct, samples, percent(share),
                              percent(interval.low), percent(interval.high)));
    svg.rect(x, y, pitch - 2, row - 2, fill, 2);
    svg.text(x + (pitch - 2) / 2, y + (row - 2) / 2 + tick * 0.36, cell_number(correct, samples), tick, Anchor::kMiddle, ink);
    svg.end_group();
  };
  for (size_t c = 0; c < columns.size(); ++c) {
    const Cell& cell = *columns[c];
    const double x = left + pitch * static_cast<double>(c);
    const std::string at = fmt::format("{}, {} tokens", pretty_task(task), format_length(cell.length));
    for (int d = 0; d < kDepthBins; ++d) {
      const DepthBin bin = cell.depths.empty() ? DepthBin{} : cell.depths[static_cast<size_t>(d)];
      draw_cell(x, top + row * d, bin.samples, bin.correct, fmt::format("{}, depth {}\u2013{} %", at, d * 10, d * 10 + 10));
    }
    draw_cell(x, top + gap + row * kDepthBins, cell.forced.samples, cell.forced.correct, at + ", all depths");
    const double middle = x + (pitch - 2) / 2;
    const std::string label = format_length(cell.length);
    const bool trained = e.training_length && *e.training_length == cell.length;
    if (rotate) {
      svg.text(middle + tick * 0.35, grid_bottom + tick * 0.7, label, tick, Anchor::kEnd, theme.muted, trained, -55);
    } else {
      svg.text(middle, grid_bottom + tick * 1.2, label, tick, Anchor::kMiddle, trained ? theme.ink : theme.muted, trained);
    }
  }
  svg.text(left + pitch * count / 2, height - tick * 0.4, "tokens", tick, Anchor::kMiddle, theme.muted);
  return svg;
}

Svg draw_heat_legend(const Theme& theme, const std::string& id) {
  Svg svg(330, 38, theme, id, "Colour scale of the heat maps",
          "From pale, 0 % right, to dark blue, 100 % right; hatched cells have no sample.");
  const int steps = 22;
  for (int i = 0; i < steps; ++i) svg.rect(2 + i * 9.0, 2, 9.3, 14, heat_colors((i + 0.5) / steps).first);
  for (const double share : {0.0, 0.5, 1.0}) {
    svg.text(2 + share * steps * 9, 31, percent(share), 11,
             share == 0   ? Anchor::kStart
             : share == 1 ? Anchor::kEnd
                          : Anchor::kMiddle,
             theme.muted);
  }
  svg.rect(224, 2, 22, 14, svg.hatch(), 2);
  svg.text(252, 13, "no sample", 11, Anchor::kStart, theme.muted);
  return svg;
}

}  // namespace cairn::report
