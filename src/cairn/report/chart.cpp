#include "cairn/report/chart.h"

#include <algorithm>
#include <cmath>

#include "cairn/core/error.h"

namespace cairn::report {
namespace {

// Where the values of one axis come to lie.
struct Scale {
  double low = 0, high = 1, begin = 0, end = 1;  // values, pixels
  bool log = false;
  double operator()(double value) const {
    const double a = log ? std::log(low) : low, b = log ? std::log(high) : high, v = log ? std::log(value) : value;
    return begin + (end - begin) * (v - a) / (b - a);
  }
};

bool drawable(double value, bool log) { return std::isfinite(value) && std::abs(value) < 1e15 && (!log || value > 0); }

// The range that holds the values, with some air; never empty.
Scale range_of(const Axis& axis, const std::vector<double>& values, bool air) {
  Scale scale;
  scale.log = axis.log;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const double value : values) {
    if (!drawable(value, axis.log)) continue;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  if (!(low <= high)) low = axis.log ? 1 : 0, high = axis.log ? 10 : 1;
  if (axis.low) low = *axis.low;
  if (axis.high) high = *axis.high;
  if (axis.log) {
    if (high / low < 1.0001) low /= 1.5, high *= 1.5;
    const double factor = air ? std::pow(high / low, 0.04) : 1;
    if (!axis.low) low /= factor;
    if (!axis.high) high *= factor;
  } else {
    if (!(high - low > 1e-12 * std::max(std::abs(high), std::abs(low)))) {
      const double half = high == 0 ? 1 : std::abs(high) * 0.5;
      if (!axis.low) low -= half;
      if (!axis.high || !(high > low)) high += half;
    } else if (air) {
      const double pad = (high - low) * 0.05;
      if (!axis.low) low -= pad;
      if (!axis.high) high += pad;
    }
  }
  scale.low = low;
  scale.high = high;
  return scale;
}

std::vector<double> choose_ticks(const Axis& axis, const Scale& scale, int about) {
  if (!axis.ticks.empty()) return axis.ticks;
  std::vector<double> ticks;
  const double slack = 1 + 1e-9;
  if (scale.log) {
    const double decades = std::log10(scale.high / scale.low);
    std::vector<double> steps = {1};
    if (decades < 0.8) {
      steps = {1, 1.5, 2, 3, 4, 5, 7};
    } else if (decades < 1.6) {
      steps = {1, 2, 5};
    } else if (decades < 3.2) {
      steps = {1, 3};
    }
    const int first = static_cast<int>(std::floor(std::log10(scale.low))), last = static_cast<int>(std::ceil(std::log10(scale.high)));
    const int stride =
        steps.size() > 1 ? 1 : std::max(1, static_cast<int>(std::ceil((last - first) / static_cast<double>(std::max(about, 2)))));
    for (int e = first; e <= last; ++e) {
      for (const double m : steps) {
        const double value = m * std::pow(10.0, e);
        if ((m > 1 || (e - first) % stride == 0) && value >= scale.low / slack && value <= scale.high * slack) ticks.push_back(value);
      }
    }
    return ticks;
  }
  const double raw = (scale.high - scale.low) / std::max(about, 1), power = std::pow(10.0, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double m : {1.0, 2.0, 2.5, 5.0}) {
    if (m * power >= raw / slack) {
      step = m * power;
      break;
    }
  }
  const double first = std::ceil(scale.low / step - 1e-9);
  for (int i = 0; i < 100 && (first + i) * step <= scale.high + step * 1e-9; ++i) {
    const double value = (first + i) * step;
    ticks.push_back(std::abs(value) < step * 1e-9 ? 0 : value);
  }
  return ticks;
}

// Rows of legend entries; draws them when `svg` is given. Returns the height they take.
double legend(const Chart& chart, const Size& size, double top, Svg* svg) {
  const double sample = 26, row = size.font * 1.6;
  double x = 0, y = top;
  bool any = false;
  for (const Series& s : chart.series) {
    if (s.name.empty()) continue;
    const double width = sample + 6 + text_width(s.name, size.font) + 15;
    if (any && (s.new_row || x + width - 16 > size.width)) x = 0, y += row;
    any = true;
    if (svg) {
      const std::string& color = s.muted ? svg->theme().muted : svg->theme().color(s.color);
      const double middle = y + row / 2;
      if (s.spread == Spread::kBand)
        svg->polygon({{x, middle - 5}, {x + sample, middle - 5}, {x + sample, middle + 5}, {x, middle + 5}}, color, 0.18);
      svg->line(x, middle, x + sample, middle, color, s.width, s.dash);
      if (s.markers) svg->marker(x + sample / 2, middle, s.shape, color, 3.6, s.hollow);
      svg->text(x + sample + 6, middle + size.font * 0.35, s.name, size.font, Anchor::kStart, svg->theme().ink);
    }
    x += width;
  }
  return any ? y + row - top : 0;
}

void draw_series(const Series& s, const Chart& chart, const Scale& x, const Scale& y, Svg* svg) {
  const std::string& color = s.muted ? svg->theme().muted : svg->theme().color(s.color);
  std::vector<std::pair<double, double>> run, upper, lower;
  size_t drawn = 0;
  const auto inside = [&](double value) { return y(std::clamp(value, y.low, y.high)); };
  const auto flush = [&](bool band) {
    if (band && s.spread == Spread::kBand && upper.size() > 1) {
      upper.insert(upper.end(), lower.rbegin(), lower.rend());
      svg->polygon(upper, color, 0.16);
    }
    if (!band) svg->polyline(run, color, s.width, s.dash);
    if (!band && run.size() == 1 && !s.markers) svg->marker(run[0].first, run[0].second, 0, color, s.width);
    run.clear(), upper.clear(), lower.clear();
  };
  for (const bool band : {true, false}) {
    for (const Point& p : s.points) {
      if (!drawable(p.x, chart.x.log) || !drawable(p.y, chart.y.log)) {
        flush(band);
        continue;
      }
      const double px = x(p.x) + s.dodge;
      run.emplace_back(px, inside(p.y));
      drawn += band ? 1 : 0;
      if (drawable(p.low, chart.y.log) && drawable(p.high, chart.y.log)) {
        upper.emplace_back(px, inside(p.high));
        lower.emplace_back(px, inside(p.low));
      }
    }
    flush(band);
  }
  for (const Point& p : s.points) {
    if (!drawable(p.x, chart.x.log) || !drawable(p.y, chart.y.log)) continue;
    const double px = x(p.x) + s.dodge, py = inside(p.y);
    const bool spread = std::isfinite(p.low) && std::isfinite(p.high);
    if (spread && (s.spread == Spread::kWhiskers || (s.spread == Spread::kBand && drawn == 1))) {
      svg->line(px, inside(p.low), px, inside(p.high), color, 1.2);
      for (const double end : {p.low, p.high}) svg->line(px - 3, inside(end), px + 3, inside(end), color, 1.2);
    }
    if (!s.markers && p.tip.empty()) continue;
    if (!p.tip.empty()) svg->begin_tip(p.tip);
    if (s.markers) svg->marker(px, py, s.shape, color, s.hollow ? 3.2 : 3.8, s.hollow);
    if (!p.tip.empty()) svg->rect(px - 9, py - 9, 18, 18, "transparent");  // easier to hit
    if (!p.tip.empty()) svg->end_group();
  }
}

std::string trim_number(double value) {
  const double magnitude = std::abs(value);
  if (value == 0) return "0";
  if (magnitude >= 1e5 || magnitude < 1e-3) {
    std::string text = fmt::format("{:.2e}", value);  // 1.50e-04 -> 1.5e-4
    const size_t e = text.find('e');
    std::string mantissa = text.substr(0, e);
    while (mantissa.back() == '0') mantissa.pop_back();
    if (mantissa.back() == '.') mantissa.pop_back();
    return fmt::format("{}e{}", mantissa, std::stoi(text.substr(e + 1)));
  }
  return fmt::format("{:.4g}", value);
}

}  // namespace

bool Chart::empty() const {
  for (const Series& s : series) {
    for (const Point& p : s.points) {
      if (drawable(p.x, x.log) && drawable(p.y, y.log)) return false;
    }
  }
  return true;
}

std::string percent_number(double share) {
  if (!std::isfinite(share)) return "-";
  const double value = share * 100;
  if (std::abs(value - std::round(value)) < 0.005) return fmt::format("{:.0f}", value);
  if (value > 99.9 && value < 100) return ">99.9";
  if (value < 0.1 && value > 0) return "<0.1";
  const std::string text = fmt::format("{:.1f}", value);
  return text.ends_with(".0") ? text.substr(0, text.size() - 2) : text;
}

std::string percent(double share) { return std::isfinite(share) ? percent_number(share) + " %" : "-"; }

std::string format_value(double value, Format format) {
  if (!std::isfinite(value)) return "-";
  switch (format) {
    case Format::kPercent:
      return percent(value);
    case Format::kLength:
      return format_length(static_cast<int64_t>(std::llround(std::clamp(value, 0.0, 9e17))));
    case Format::kCount: {
      const double magnitude = std::abs(value);
      if (magnitude >= 999.5e9) return fmt::format("{:.3g}T", value / 1e12);
      if (magnitude >= 999.5e6) return fmt::format("{:.3g}B", value / 1e9);
      if (magnitude >= 999.5e3) return fmt::format("{:.3g}M", value / 1e6);
      if (magnitude >= 999.5) return fmt::format("{:.3g}k", value / 1e3);
      return trim_number(value);
    }
    default:
      return trim_number(value);
  }
}

std::vector<Point> thin_out(const std::vector<std::pair<double, double>>& values, size_t buckets) {
  std::vector<Point> points;
  const size_t per = std::max<size_t>(1, (values.size() + buckets - 1) / buckets);
  for (size_t begin = 0; begin < values.size(); begin += per) {
    const size_t end = std::min(values.size(), begin + per);
    Point p;
    double sum = 0;
    size_t count = 0;
    for (size_t i = begin; i < end; ++i) {
      p.x = values[i].first;
      if (!drawable(values[i].second, false)) continue;
      sum += values[i].second;
      p.low = count == 0 ? values[i].second : std::min(p.low, values[i].second);
      p.high = count == 0 ? values[i].second : std::max(p.high, values[i].second);
      ++count;
    }
    p.y = count > 0 ? sum / static_cast<double>(count) : kMissing;
    points.push_back(p);
  }
  return points;
}

Svg draw_chart(const Chart& chart, const Size& size, const Theme& theme, const std::string& id) {
  Svg svg(size.width, size.height, theme, id, chart.title, chart.description);
  double top = 2;
  if (size.heading) {
    svg.text(0, size.font * 1.5, chart.title, size.font * 1.35, Anchor::kStart, theme.ink, true);
    top += size.font * 2.3;
  }
  top += legend(chart, size, top, &svg);

  std::vector<double> xs, ys;
  for (const Series& s : chart.series) {
    for (const Point& p : s.points) {
      if (!drawable(p.x, chart.x.log) || !drawable(p.y, chart.y.log)) continue;
      xs.push_back(p.x);
      for (const double v : {p.y, s.spread == Spread::kNone ? p.y : p.low, s.spread == Spread::kNone ? p.y : p.high}) ys.push_back(v);
    }
  }
  for (const Mark& mark : chart.marks) {
    if (mark.strong) xs.push_back(mark.x);
  }
  Scale x = range_of(chart.x, xs, chart.x.log), y = range_of(chart.y, ys, true);
  const double tick_font = size.font * 0.95;
  const bool labelled = std::any_of(chart.marks.begin(), chart.marks.end(), [](const Mark& m) { return !m.strong && !m.label.empty(); });
  const double label_row = top + size.font * 1.65;
  top += size.font * (labelled ? 3.1 : 2.0);  // the vertical axis's label; below it the names of phases
  const double bottom = size.height - tick_font * 3.1;
  const std::vector<double> y_ticks = choose_ticks(chart.y, y, std::max(2, static_cast<int>((bottom - top) / 36)));
  double left = 0;
  for (const double t : y_ticks) left = std::max(left, text_width(format_value(t, chart.y.format), tick_font));
  left += 9;
  x.begin = left + (chart.x.log ? 8 : 0), x.end = size.width - 12;
  y.begin = bottom, y.end = top;

  svg.text(0, label_row - size.font * 0.4, chart.y.label, tick_font, Anchor::kStart, theme.muted);
  for (const double t : y_ticks) {
    if (t < y.low * (y.low > 0 ? 0.999999 : 1.000001) - 1e-12 || !drawable(t, y.log)) continue;
    svg.line(left, y(t), size.width - 4, y(t), theme.grid, 1);
    svg.text(left - 6, y(t) + tick_font * 0.35, format_value(t, chart.y.format), tick_font, Anchor::kEnd, theme.muted);
  }
  svg.line(left, bottom, size.width - 4, bottom, theme.muted, 1);
  const std::vector<double> x_ticks = choose_ticks(chart.x, x, std::max(2, static_cast<int>((x.end - x.begin) / 75)));
  double free_until = size.width + 4;  // labels from the right: the longest length is the one that matters
  for (auto it = x_ticks.rbegin(); it != x_ticks.rend(); ++it) {
    if (!drawable(*it, x.log) || *it < x.low * (x.low > 0 ? 0.999999 : 1) || *it > x.high * 1.000001) continue;
    const std::string label = format_value(*it, chart.x.format);
    const double half = text_width(label, tick_font) / 2, px = x(*it);
    svg.line(px, bottom, px, bottom + 4, theme.muted, 1);
    const double middle = std::min(px, size.width - half);
    if (middle + half + 5 > free_until || middle - half < 0) continue;
    free_until = middle - half;
    svg.text(middle, bottom + tick_font * 1.35, label, tick_font, Anchor::kMiddle, theme.muted);
  }
  svg.text((left + size.width) / 2, size.height - tick_font * 0.4, chart.x.label, tick_font, Anchor::kMiddle, theme.muted);

  double label_free = left;
  for (const Mark& mark : chart.marks) {
    if (!drawable(mark.x, x.log) || mark.x < x.low || mark.x > x.high) continue;
    const double px = x(mark.x), width = text_width(mark.label, tick_font);
    svg.begin_tip(mark.tip.empty() ? mark.label : mark.tip);
    svg.line(px, mark.strong ? top - 2 : top - tick_font * 1.3, px, bottom, mark.strong ? theme.ink : theme.muted, mark.strong ? 1.4 : 1,
             mark.strong ? "" : "1 3");
    svg.rect(px - 5, top, 10, bottom - top, "transparent");
    const bool flip = px + width + 6 > size.width;
    const double begin = flip ? px - width - 4 : px + 4;
    if (!mark.label.empty() && begin >= label_free) {
      svg.text(begin, mark.strong ? (top + bottom) / 2 : top - tick_font * 0.5, mark.label, tick_font * (mark.strong ? 1 : 0.92),
               Anchor::kStart, mark.strong ? theme.ink : theme.muted);
      label_free = begin + width + 4;
    }
    svg.end_group();
  }
  for (const Series& s : chart.series) draw_series(s, chart, x, y, &svg);
  if (chart.empty()) svg.text((left + size.width) / 2, (top + bottom) / 2, "no data", size.font, Anchor::kMiddle, theme.muted);
  return svg;
}

}  // namespace cairn::report
