// Line charts: axes, series with intervals, marks, legend. One description draws at any size and in any theme.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cairn/report/data.h"
#include "cairn/report/svg.h"

namespace cairn::report {

enum class Format { kNumber, kPercent, kLength, kCount };  // 0.01 | 95 % | 64K (binary) | 1.5M (decimal)

struct Axis {
  std::string label;
  Format format = Format::kNumber;
  bool log = false;
  std::vector<double> ticks;        // empty: chosen
  std::optional<double> low, high;  // missing: from the data
};

struct Point {
  double x = 0, y = 0;                     // a y that is no number leaves a gap
  double low = kMissing, high = kMissing;  // interval
  std::string tip;                         // empty: no marker reacts
};

enum class Spread { kNone, kBand, kWhiskers };

struct Series {
  std::string name;  // empty: not in the legend
  size_t color = 0;
  std::string dash;  // SVG dash array; empty: solid
  double width = 2;
  bool markers = false, hollow = false;
  bool muted = false;    // the theme's grey instead of the colour
  bool new_row = false;  // starts a row of the legend
  size_t shape = 0;
  Spread spread = Spread::kNone;
  double dodge = 0;  // shift in pixels, so that series with equal values stay apart
  std::vector<Point> points;
};

struct Mark {
  double x = 0;
  std::string label, tip;
  bool strong = false;
};

struct Chart {
  std::string title, description;
  Axis x, y;
  std::vector<Series> series;
  std::vector<Mark> marks;
  bool empty() const;  // no point that could be drawn
};

struct Size {
  double width = 380, height = 250, font = 12;
  bool heading = false;  // draws the title inside (files that stand alone)
};

Svg draw_chart(const Chart& chart, const Size& size, const Theme& theme, const std::string& id);

// A value as an axis or a tip shows it.
std::string format_value(double value, Format format);
// 0.967 -> "96.7 %", 1 -> "100 %"; "-" for a missing one. Never rounds to 0 or 100 what is not.
std::string percent(double share);
std::string percent_number(double share);  // the same without the sign

// At most `buckets` points: x of the bucket's last point, mean, and the extremes as interval. Keeps gaps.
std::vector<Point> thin_out(const std::vector<std::pair<double, double>>& values, size_t buckets);

}  // namespace cairn::report
