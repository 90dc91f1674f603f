// Language-model loss over the length of the context, and over the position.
#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <set>

#include "cairn/report/figures.h"
#include "cairn/report/page.h"
#include "cairn/report/summary.h"

namespace cairn::report {
namespace {

constexpr double kInterval = 1.959963984540054;  // 95 % of a normal distribution, in standard errors

using Points = std::vector<LossPoint> Perplexity::*;

// The wider of the two errors: tokens of one window are not independent, and few windows may agree by chance.
double difference_error(const LossPoint& p) { return std::fmax(p.difference_error, p.difference_error_windows); }

Chart chart_of(const std::vector<Perplexity>& all, Points points, const std::string& title, const std::string& x, const std::string& y,
               const std::function<Point(const Perplexity&, const LossPoint&)>& draw) {
  Chart chart;
  chart.title = title;
  chart.x = {x, Format::kLength, true, {}, {}, {}};
  chart.y = {y, Format::kNumber, false, {}, {}, {}};
  std::set<int64_t> ticks;
  for (size_t i = 0; i < all.size(); ++i) {
    Series s;
    s.name = all.size() > 1 ? all[i].label : "";
    s.color = s.shape = i;
    s.markers = true;
    s.spread = Spread::kWhiskers;
    s.dodge = (static_cast<double>(i) - static_cast<double>(all.size() - 1) / 2) * 4;
    for (const LossPoint& p : all[i].*points) {
      ticks.insert(p.tokens_before);
      s.points.push_back(draw(all[i], p));
      if (!std::isfinite(s.points.back().y)) continue;
      chart.description += fmt::format("{}, {}: {:.4f}. ", all[i].label, format_length(p.tokens_before), s.points.back().y);
    }
    if (!s.points.empty()) chart.series.push_back(std::move(s));
    if (all[i].training_length && !(all[i].*points).empty() && chart.marks.empty()) {
      const std::string text = fmt::format("trained on {}", format_length(*all[i].training_length));
      chart.marks.push_back({static_cast<double>(*all[i].training_length), text, text + " tokens", true});
    }
  }
  if (ticks.size() <= 12) chart.x.ticks.assign(ticks.begin(), ticks.end());
  return chart;
}

std::string bits(const LossPoint& p) { return std::isfinite(p.bits_per_byte) ? fmt::format("{:.4f} bits a byte", p.bits_per_byte) : ""; }

}  // namespace

std::vector<Chart> language_charts(const std::vector<Perplexity>& all) {
  std::vector<Chart> charts;
  charts.push_back(chart_of(all, &Perplexity::lengths, "Loss of the same tokens", "tokens in front of them", "nats a token",
                            [](const Perplexity& e, const LossPoint& p) {
                              return Point{static_cast<double>(p.tokens_before), p.loss, kMissing, kMissing,
                                           fmt::format("{}, {} tokens in front\nloss {:.4f} of {} tokens\n{}", e.label,
                                                       format_length(p.tokens_before), p.loss, thousands(p.tokens), bits(p))};
                            }));
  charts.push_back(chart_of(all, &Perplexity::lengths, "What the longer context changes", "tokens in front", "difference, nats a token",
                            [](const Perplexity& e, const LossPoint& p) {
                              const double half = kInterval * difference_error(p);
                              return Point{
                                  static_cast<double>(p.tokens_before), p.difference, p.difference - half, p.difference + half,
                                  fmt::format("{}, {} tokens in front against {}\n{:+.5f} nats a token, 95 % interval {:+.5f} to {:+.5f}",
                                              e.label, format_length(p.tokens_before), format_length(e.near), p.difference,
                                              p.difference - half, p.difference + half)};
                            }));
  charts.push_back(chart_of(
      all, &Perplexity::positions, "Loss by position", "position in the text", "nats a token", [](const Perplexity& e, const LossPoint& p) {
        const double half = kInterval * p.standard_error;
        return Point{static_cast<double>(p.tokens_before), p.loss, p.loss - half, p.loss + half,
                     fmt::format("{}, behind {} tokens\nloss {:.4f} \u00b1 {:.4f} of {} tokens\n{}", e.label,
                                 format_length(p.tokens_before), p.loss, p.standard_error, thousands(p.tokens), bits(p))};
      }));
  std::erase_if(charts, [](const Chart& c) { return c.empty(); });
  return charts;
}

std::string perplexity_table(const Perplexity& e) {
  std::string out = fmt::format(
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Losses of {0}\"><table><caption>{0}</caption><thead><tr>"
      "<th scope=\"col\">context</th><th scope=\"col\">tokens</th><th scope=\"col\">nats a token</th><th scope=\"col\">perplexity</th>"
      "<th scope=\"col\">bits a byte</th><th scope=\"col\">difference to {1}</th><th scope=\"col\">s.e., tokens</th>"
      "<th scope=\"col\">s.e., windows</th></tr></thead><tbody>",
      escape(e.label), format_length(e.near));
  const auto number = [](double value) { return std::isfinite(value) ? fmt::format("<td>{:.5g}</td>", value) : "<td>\u2013</td>"; };
  const auto signed_number = [](double value) { return std::isfinite(value) ? fmt::format("<td>{:+.5f}</td>", value) : "<td>\u2013</td>"; };
  for (const LossPoint& p : e.lengths) {
    fmt::format_to(std::back_inserter(out), "<tr><td>{}</td><td>{}</td>", format_length(p.tokens_before), thousands(p.tokens));
    out += number(p.loss) + number(std::exp(std::min(p.loss, 700.0))) + number(p.bits_per_byte) + signed_number(p.difference) +
           number(p.difference_error) + number(p.difference_error_windows) + "</tr>";
  }
  return out + "</tbody></table></div>";
}

std::string verdict(const Perplexity& e) {
  if (e.lengths.empty()) return fmt::format("The loss of {} has not been measured yet.", e.label);
  const LossPoint& longest = e.lengths.back();
  std::string text = fmt::format("{} predicts {} with {:.4f} nats a token behind {} tokens", e.label, e.text.empty() ? "the text" : e.text,
                                 longest.loss, format_length(longest.tokens_before));
  if (longest.tokens_before != e.near && std::isfinite(longest.difference)) {
    const double error = difference_error(longest);
    text += fmt::format(", {:+.4f} against the same tokens behind {}", longest.difference, format_length(e.near));
    if (std::isfinite(error)) text += fmt::format(" (standard error {:.4f}, {} windows)", error, e.windows);
  }
  return text + ".";
}

}  // namespace cairn::report
