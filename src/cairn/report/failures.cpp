// Why samples failed: one bar a length, as long as the share of wrong samples, split by class.
#include <algorithm>
#include <numeric>

#include "cairn/report/figures.h"

namespace cairn::report {
namespace {

constexpr const char* kWords[kFailureClasses] = {"chunk not found", "found, not used", "misread", "no visible source"};
constexpr size_t kColors[kFailureClasses] = {1, 4, 3, 6};

double samples_of(const Cell& cell) { return static_cast<double>(std::max<int64_t>(cell.forced.samples, 1)); }

}  // namespace

const char* failure_words(int failure) { return kWords[failure]; }

bool has_failures(const Evaluation& e, const std::string& task) {
  return std::any_of(e.cells.begin(), e.cells.end(),
                     [&](const Cell& cell) { return cell.task == task && cell.failures && cell.forced.correct < cell.forced.samples; });
}

Svg draw_failures(const Evaluation& e, const std::string& task, const Size& size, const Theme& theme, const std::string& id) {
  std::vector<const Cell*> rows;
  for (const Cell& cell : e.cells) {
    if (cell.task == task && cell.failures) rows.push_back(&cell);
  }
  const double tick = size.font * 0.92, row = std::max(19.0, size.font * 1.5);
  double left = 0;
  for (const Cell* cell : rows) left = std::max(left, text_width(format_length(cell->length), tick) + 8);
  const double count_width = text_width("1000 of 1000", tick) + 6, bar = std::max(60.0, size.width - left - count_width);
  // The legend in rows of what fits.
  std::vector<std::pair<double, double>> keys;
  double x = 0, y = 0;
  for (const char* word : kWords) {
    const double width = tick + 5 + text_width(word, tick) + 14;
    if (x > 0 && x + width - 14 > size.width) x = 0, y += tick * 1.6;
    keys.emplace_back(x, y);
    x += width;
  }
  const double top = y + tick * 2.2, height = top + row * static_cast<double>(rows.size()) + 2;
  // Bars are drawn against the worst length, so that rare failures can be seen, too.
  double most = 0;
  for (const Cell* cell : rows) most = std::max(most, static_cast<double>(cell->forced.samples - cell->forced.correct) / samples_of(*cell));

  std::string description;
  for (const Cell* cell : rows) {
    description += fmt::format("{} tokens:", format_length(cell->length));
    for (size_t f = 0; f < kFailureClasses; ++f) description += fmt::format("{} {} {}", f == 0 ? "" : ",", (*cell->failures)[f], kWords[f]);
    description += ". ";
  }
  Svg svg(size.width, height, theme, id, fmt::format("{}: why samples failed", pretty_task(task)), description);
  for (size_t f = 0; f < kFailureClasses; ++f) {
    svg.rect(keys[f].first, keys[f].second + 2, tick, tick, theme.color(kColors[f]), 2);
    svg.text(keys[f].first + tick + 5, keys[f].second + tick * 0.95, kWords[f], tick, Anchor::kStart, theme.ink);
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    const Cell& cell = *rows[i];
    const double at_y = top + row * static_cast<double>(i), middle = at_y + row / 2 + tick * 0.3;
    svg.text(left - 7, middle, format_length(cell.length), tick, Anchor::kEnd, theme.muted);
    double at_x = left;
    for (size_t f = 0; f < kFailureClasses; ++f) {
      const int64_t n = (*cell.failures)[f];
      if (n == 0) continue;
      const double width = bar * static_cast<double>(n) / samples_of(cell) / std::max(most, 1e-9);
      const std::string text = std::to_string(n);
      svg.begin_tip(fmt::format("{}, {} tokens\n{}: {} of {} samples", pretty_task(task), format_length(cell.length), kWords[f], n,
                                cell.forced.samples));
      svg.rect(at_x, at_y + 2, std::max(width - 1, 1.0), row - 4, theme.color(kColors[f]), 2);
      if (text_width(text, tick) + 6 < width) svg.text(at_x + width / 2, middle, text, tick, Anchor::kMiddle, theme.surface, true);
      svg.end_group();
      at_x += width;
    }
    const int64_t wrong = cell.forced.samples - cell.forced.correct;
    svg.text(at_x + 6, middle, fmt::format("{} of {}", wrong, cell.forced.samples), tick, Anchor::kStart, theme.muted);
  }
  return svg;
}

}  // namespace cairn::report
