#include "cairn/report/ops_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/report/chart.h"
#include "cairn/report/csv_table.h"

namespace cairn::report {
namespace {

using Wanted = std::vector<std::pair<std::string, std::string>>;  // column, value
using Value = std::function<double(const CsvRow&)>;

bool fits(const CsvRow& row, const Wanted& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const auto& want) {
    const auto found = row.find(want.first);
    return found != row.end() && found->second == want.second;
  });
}

// What an operator is called in a legend, and its colour.
struct Operator {
  const char *name, *shown;
  size_t color;
};
constexpr Operator kTokenByToken[] = {{"norm", "norm", 0},
                                      {"residual sum; norm", "residual sum and norm", 1},
                                      {"norm; rotary", "norm and rotation", 2},
                                      {"swiglu", "SwiGLU", 3}};
constexpr const char *kForward = "forward", *kBoth = "forward and backward";

class Picture {
 public:
  explicit Picture(std::vector<CsvRow> rows) : rows_(std::move(rows)) {}

  std::string draw() {
    selection();
    for (const char* direction : {kForward, kBoth}) over_tokens(direction);
    shares();
    products();
    training();
    std::erase_if(charts_, [](const Chart& chart) { return chart.empty(); });
    constexpr double kMargin = 24;
    const Size size{560, 360, 13, true};
    const double rows = std::ceil(static_cast<double>(charts_.size()) / 2);
    Svg all(2 * size.width + 3 * kMargin, rows * size.height + (rows + 1) * kMargin, paper_theme(), "picture", "Operators on a GPU",
            "Times and shares of the machine's limits, kernels beside plain paths.");
    for (size_t i = 0; i < charts_.size(); ++i) {
      all.append(draw_chart(charts_[i], size, paper_theme(), fmt::format("chart{}", i)),
                 kMargin + static_cast<double>(i % 2) * (size.width + kMargin),
                 kMargin + static_cast<double>(i / 2) * (size.height + kMargin));
    }
    return all.finish();
  }

 private:
  Chart& chart(const std::string& title, const std::string& x, Format format, const std::string& y, bool log_y) {
    Chart& made = charts_.emplace_back();
    made.title = made.description = title;
    made.x = {x, format, true, {}, {}, {}};
    made.y = {y, Format::kNumber, log_y, {}, {}, {}};
    if (!log_y) made.y.low = 0;
    return made;
  }

  // The rows that fit, over a column; nothing where there is no row. dashed: drawn so, with hollow markers.
  void add(Chart* to, const std::string& name, size_t color, bool dashed, const Wanted& wanted, const std::string& x, const Value& value) {
    Series s;
    s.name = name, s.color = color, s.shape = color, s.markers = true, s.width = 1.6;
    if (dashed) s.dash = "6 4", s.hollow = true;
    for (const CsvRow& row : rows_) {
      const double at = csv_number(row, x), y = value(row);
      if (!fits(row, wanted) || !std::isfinite(at) || !std::isfinite(y)) continue;
      s.points.push_back({at, y, kMissing, kMissing, fmt::format("{}\n{} {:g}: {:.3g}", name, to->x.label, at, y)});
      to->x.ticks.push_back(at);
    }
    std::sort(s.points.begin(), s.points.end(), [](const Point& a, const Point& b) { return a.x < b.x; });
    if (!s.points.empty()) to->series.push_back(std::move(s));
    std::sort(to->x.ticks.begin(), to->x.ticks.end());
    to->x.ticks.erase(std::unique(to->x.ticks.begin(), to->x.ticks.end()), to->x.ticks.end());
  }
  static Value column(const std::string& name) {
    return [name](const CsvRow& row) { return csv_number(row, name); };
  }

  void selection() {
    const Wanted one = {{"operator", "selection"}, {"L", "1"}, {"H", "1"}, {"N", "8"}};
    const auto with = [](Wanted wanted, const std::string& name, const std::string& value) {
      wanted.emplace_back(name, value);
      return wanted;
    };
    Chart& time = chart("Selection for one token, 8 of all chunks: ms", "chunks", Format::kLength, "ms", true);
    add(&time, "kernels", 0, false, with(one, "path", "kernel"), "C", column("ms"));
    add(&time, "LibTorch's operators", 1, true, with(one, "path", "plain"), "C", column("ms"));
    add(&time, "landmarks at the copy's bandwidth", 2, true, with(one, "path", "kernel"), "C",
        [](const CsvRow& row) { return csv_number(row, "ms") * csv_number(row, "% of copy") / 100; });
    Chart& slots = chart("Selection over the chunks a token gets: ms", "N", Format::kNumber, "ms", true);
    const std::vector<std::pair<std::string, Wanted>> many = {
        {"65,536 tokens, 1,024 chunks", {{"operator", "selection"}, {"L", "65536"}, {"C", "1024"}}},
        {"1 token, 524,288 chunks", {{"operator", "selection"}, {"L", "1"}, {"C", "524288"}, {"H", "1"}}}};
    for (size_t i = 0; i < many.size(); ++i) {
      add(&slots, many[i].first, i, false, with(many[i].second, "path", "kernel"), "N", column("ms"));
      add(&slots, many[i].first + ", LibTorch", i, true, with(many[i].second, "path", "plain"), "N", column("ms"));
    }
  }

  // Widths as in the 31M model.
  static Wanted usual(const Operator& o, const std::string& direction) {
    const std::string name = o.name, width = name == "swiglu" ? "1344" : name == "norm; rotary" ? "64" : "512";
    return {{"operator", name}, {"direction", direction}, {"D", width}};
  }

  void over_tokens(const std::string& direction) {
    Chart& time = chart("Token by token, " + direction + ": ms (dashed: LibTorch)", "tokens", Format::kLength, "ms", true);
    for (const Operator& o : kTokenByToken) {
      for (const bool plain : {false, true}) {
        Wanted wanted = usual(o, direction);
        wanted.emplace_back("path", plain ? "plain" : "kernel");
        add(&time, plain ? "" : o.shown, o.color, plain, wanted, "L", column("ms"));
      }
    }
  }

  void shares() {
    Chart& length = chart("Share of the copy's bandwidth, % (dashed: with backward)", "tokens", Format::kLength, "%", false);
    Chart& width = chart("The same over widths, 65,536 tokens", "width", Format::kNumber, "%", false);
    for (const Operator& o : kTokenByToken) {
      for (const std::string direction : {kForward, kBoth}) {
        Wanted wanted = usual(o, direction);
        wanted.emplace_back("path", "kernel");
        add(&length, direction == kForward ? o.shown : "", o.color, direction == kBoth, wanted, "L", column("% of copy"));
        add(&width, direction == kForward ? o.shown : "", o.color, direction == kBoth,
            {{"operator", o.name}, {"direction", direction}, {"L", "65536"}, {"path", "kernel"}}, "D", column("% of copy"));
      }
    }
  }

  void products() {
    Chart& entropy = chart("Cross-entropy, 65,536 tokens: % of a large product", "words", Format::kLength, "%", false);
    for (const std::string direction : {kForward, kBoth}) {
      const size_t color = direction == kForward ? 0 : 1;
      for (const std::string path : {"kernel", "plain"}) {
        add(&entropy, direction + (path == "plain" ? ", LibTorch" : ""), color, path == "plain",
            {{"operator", "cross-entropy"}, {"direction", direction}, {"L", "65536"}, {"path", path}}, "C", column("% of product"));
      }
    }
    Chart& heads =
        chart("Window attention, 65,536 tokens: TFLOP/s over shared heads", "query heads a K/V head", Format::kNumber, "TFLOP/s", false);
    const Value group = column("TFLOP/s");
    for (const std::string direction : {kForward, kBoth}) {
      Series s;
      s.name = direction, s.color = s.shape = direction == kForward ? 0 : 1, s.markers = true, s.width = 1.6;
      for (const CsvRow& row : rows_) {
        if (!fits(row, {{"operator", "window attention"}, {"direction", direction}, {"L", "65536"}, {"D", "64"}})) continue;
        const double shared = csv_number(row, "H") / csv_number(row, "G"), y = group(row);
        s.points.push_back({shared, y, kMissing, kMissing, fmt::format("{}\n{:g} heads a K/V head: {:.3g}", direction, shared, y)});
        if (direction == kForward) heads.x.ticks.push_back(shared);
      }
      std::sort(s.points.begin(), s.points.end(), [](const Point& a, const Point& b) { return a.x < b.x; });
      if (!s.points.empty()) heads.series.push_back(std::move(s));
    }
    std::sort(heads.x.ticks.begin(), heads.x.ticks.end());
  }

  void training() {
    Chart& choice = chart("Choice from scores with noise, 65,536 tokens, N 8: ms", "chunks a sequence", Format::kNumber, "ms", true);
    for (const std::string path : {"kernel", "plain"}) {
      add(&choice, path == "plain" ? "LibTorch's operators" : "kernels", path == "plain" ? 1 : 0, path == "plain",
          {{"operator", "choice from scores; noise"}, {"path", path}}, "C", column("ms"));
    }
    Chart& all = chart("Cross-entropy, window attention, with backward: ms", "tokens", Format::kLength, "ms", true);
    add(&all, "cross-entropy, 16,384 words", 0, false,
        {{"operator", "cross-entropy"}, {"direction", kBoth}, {"C", "16384"}, {"path", "kernel"}}, "L", column("ms"));
    add(&all, "cross-entropy, LibTorch", 0, true, {{"operator", "cross-entropy"}, {"direction", kBoth}, {"C", "16384"}, {"path", "plain"}},
        "L", column("ms"));
    add(&all, "window attention", 1, false, {{"operator", "window attention"}, {"direction", kBoth}, {"G", "8"}, {"D", "64"}}, "L",
        column("ms"));
  }

  std::vector<CsvRow> rows_;
  std::deque<Chart> charts_;  // references stay good
};

}  // namespace

std::string draw_ops_picture(std::string_view csv, const std::string& source) { return Picture(read_csv(csv, source, "operator")).draw(); }

}  // namespace cairn::report
