// Draws what bench_hsa_cuda and hsa_triton.py printed: bench_hsa_picture OUT.svg FILE.csv... One picture that stands alone.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/report/chart.h"
#include "cairn/report/csv_table.h"

namespace cairn::report {
namespace {

using Row = CsvRow;

double number(const Row& row, const std::string& column) { return csv_number(row, column); }

class Picture {
 public:
  explicit Picture(std::vector<Row> rows) : rows_(std::move(rows)) {}

  std::string draw() const {
    std::vector<Chart> charts;
    for (const char* way : {"forward", "backward"}) charts.push_back(time_over_length(way));
    for (const char* way : {"forward", "backward"}) charts.push_back(share_over_length(way));
    charts.push_back(
        over("heads a group", "time against 16 heads a K/V head", "query heads a K/V head",
             [&](const Row& row, const std::string& way) { return number(row, way + " ms") / number(base_of(row), way + " ms"); }));
    charts.push_back(
        over("D", "TFLOP/s", "head width", [](const Row& row, const std::string& way) { return number(row, way + " TFLOP/s"); }));
    constexpr double kMargin = 24;
    const Size size{560, 360, 13, true};
    Svg all(2 * size.width + 3 * kMargin, 3 * size.height + 4 * kMargin, paper_theme(), "picture", "Memory attention on a GPU",
            "Time, share of a large matrix product, and the cost of fewer heads a K/V head.");
    for (size_t i = 0; i < charts.size(); ++i) {
      all.append(draw_chart(charts[i], size, paper_theme(), fmt::format("chart{}", i)),
                 kMargin + static_cast<double>(i % 2) * (size.width + kMargin),
                 kMargin + static_cast<double>(i / 2) * (size.height + kMargin));
    }
    return all.finish();
  }

 private:
  using Value = std::function<double(const Row&, const std::string&)>;

  // One of ours with the usual settings but for `free`.
  static bool usual(const Row& row, const std::string& free) {
    const std::map<std::string, std::string> wanted = {
        {"selection", "random"}, {"heads a group", "16"}, {"D", "64"}, {"deterministic", "no"}, {"L2", "cold"}};
    return std::all_of(wanted.begin(), wanted.end(), [&](const auto& want) {
      const auto found = row.find(want.first);
      return want.first == free || (found != row.end() && found->second == want.second);
    });
  }
  Row base_of(const Row& row) const {
    for (const Row& other : rows_) {
      if (usual(other, "") && other.at("L") == row.at("L") && other.at("N") == row.at("N")) return other;
    }
    return {};
  }

  static Series line(const std::string& name, size_t color, bool dashed) {
    Series s;
    s.name = name, s.color = color, s.shape = color, s.markers = true, s.width = 1.6;
    if (dashed) s.dash = "6 4", s.hollow = true;
    return s;
  }
  static void finish(Series s, Chart* chart) {
    std::erase_if(s.points, [](const Point& p) { return !std::isfinite(p.y); });
    std::sort(s.points.begin(), s.points.end(), [](const Point& a, const Point& b) { return a.x < b.x; });
    if (!s.points.empty()) chart->series.push_back(std::move(s));
  }
  static Chart chart_of(const std::string& title, Axis x, Axis y) {
    Chart chart;
    chart.title = chart.description = title;
    chart.x = std::move(x), chart.y = std::move(y);
    return chart;
  }
  Axis lengths() const {
    Axis axis{"tokens", Format::kLength, true, {}, {}, {}};
    for (const Row& row : rows_) axis.ticks.push_back(number(row, "L"));
    std::sort(axis.ticks.begin(), axis.ticks.end());
    axis.ticks.erase(std::unique(axis.ticks.begin(), axis.ticks.end()), axis.ticks.end());
    return axis;
  }

  Chart time_over_length(const std::string& way) const {
    Chart chart = chart_of(way + ", ms", lengths(), {"ms", Format::kNumber, true, {}, {}, {}});
    const auto add = [&](const Series& style, const std::function<bool(const Row&)>& wanted) {
      Series s = style;
      for (const Row& row : rows_) {
        if (!wanted(row)) continue;
        const double ms = number(row, way + " ms");
        s.points.push_back({number(row, "L"), ms, kMissing, kMissing, fmt::format("{}\n{} tokens: {:.3g} ms", s.name, row.at("L"), ms)});
      }
      finish(std::move(s), &chart);
    };
    const auto is = [](const Row& row, const std::string& column, const std::string& value) {
      const auto found = row.find(column);
      return found != row.end() && found->second == value;
    };
    for (const auto& [slots, color] : {std::pair<std::string, size_t>{"8", 0}, {"32", 1}}) {
      add(line("N " + slots, color, false), [&](const Row& row) { return usual(row, "") && is(row, "N", slots); });
      add(line("N " + slots + ", authors' Triton", color, true),
          [&](const Row& row) { return is(row, "what", "theirs") && is(row, "N", slots); });
    }
    add(line("full attention, cuDNN", 2, true), [&](const Row& row) { return is(row, "what", "full attention cuDNN"); });
    return chart;
  }

  Chart share_over_length(const std::string& way) const {
    Chart chart = chart_of(way + ", % of a product of 8192 x 8192 x 8192", lengths(), {"%", Format::kNumber, false, {}, 0.0, {}});
    for (const auto& [slots, color] : {std::pair<std::string, size_t>{"8", 0}, {"32", 1}}) {
      Series s = line("N " + slots, color, false);
      for (const Row& row : rows_) {
        if (!usual(row, "") || row.at("N") != slots) continue;
        const double share = number(row, way + " % of product");
        s.points.push_back({number(row, "L"), share, kMissing, kMissing,
                            fmt::format("{} tokens: {:.3g} TFLOP/s, {:.1f} %", row.at("L"), number(row, way + " TFLOP/s"), share)});
      }
      finish(std::move(s), &chart);
    }
    return chart;
  }

  // A value over the numbers of a column, N 8, forward and backward at each length where the column takes several.
  Chart over(const std::string& column, const std::string& title, const std::string& label, const Value& value) const {
    Chart chart = chart_of(title, {label, Format::kNumber, true, {}, {}, {}}, {title, Format::kNumber, false, {}, 0.0, {}});
    std::map<double, std::map<double, const Row*>> by_length;
    for (const Row& row : rows_) {
      if (usual(row, column) && row.at("N") == "8") by_length[number(row, "L")][number(row, column)] = &row;
    }
    size_t color = 0;
    for (const auto& [length, rows] : by_length) {
      if (rows.size() < 2) continue;
      for (const std::string way : {"forward", "backward"}) {
        Series s = line(fmt::format("{} at {}", way, format_value(length, Format::kLength)), color, way == "forward");
        for (const auto& [x, row] : rows) {
          const double y = value(*row, way);
          s.points.push_back({x, y, kMissing, kMissing, fmt::format("{} {:g}: {:.3g}", label, x, y)});
          chart.x.ticks.push_back(x);
        }
        finish(std::move(s), &chart);
      }
      ++color;
    }
    std::sort(chart.x.ticks.begin(), chart.x.ticks.end());
    chart.x.ticks.erase(std::unique(chart.x.ticks.begin(), chart.x.ticks.end()), chart.x.ticks.end());
    return chart;
  }

  std::vector<Row> rows_;
};

int run(int argc, char** argv) {
  if (argc < 3) throw UserError("usage: bench_hsa_picture OUT.svg FILE.csv...");
  std::vector<Row> rows;
  for (int i = 2; i < argc; ++i) {
    for (Row& row : read_csv(read_file(argv[i]), argv[i], "L")) rows.push_back(std::move(row));
  }
  write_file(argv[1], Picture(std::move(rows)).draw());
  return 0;
}

}  // namespace
}  // namespace cairn::report

int main(int argc, char** argv) {
  try {
    return cairn::report::run(argc, argv);
  } catch (const cairn::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return error.exit_code();
  }
}
