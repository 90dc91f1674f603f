#include <algorithm>
#include <cmath>
#include <iterator>

#include "cairn/report/chart.h"
#include "cairn/report/page.h"
#include "cairn/report/summary.h"

namespace cairn::report {
namespace {

std::string score_cell(const Score* score) {
  if (!score || score->samples == 0) return "<td>\u2013</td>";
  return fmt::format("<td{}>{} <small>{}\u2013{}</small></td>", score->accuracy >= kGood ? " class=\"good\"" : "",
                     escape(percent(score->accuracy)), escape(percent_number(score->interval.low)),
                     escape(percent_number(score->interval.high)));
}

std::string value_cell(const std::string& text) { return fmt::format("<td>{}</td>", text == "-" ? "\u2013" : escape(text)); }

}  // namespace

std::string cells_table(const Evaluation& e) {
  size_t retrievals = 0;
  bool generated = false, floor = false, chance = false, tokens = false, shared = false;
  for (const Cell& c : e.cells) {
    retrievals = std::max(retrievals, c.recall.size());
    generated |= c.generated.has_value();
    floor |= c.floor.has_value();
    shared |= c.shared_window;
    chance |= std::isfinite(c.chance);
    tokens |= std::isfinite(c.token_accuracy);
  }
  std::string out = fmt::format(
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"All cells of {0}\"><table><caption>{0}</caption><thead><tr>",
      escape(e.label));
  const auto head = [&](const std::string& text) { fmt::format_to(std::back_inserter(out), "<th scope=\"col\">{}</th>", escape(text)); };
  head("task");
  head("length");
  if (e.training_length) head("\u00d7 training");
  head("N");
  head("teacher-forced");
  if (generated) head("generated");
  if (tokens) head("answer tokens");
  if (floor) head("window only"), head("N floor");
  if (chance) head("chance");
  for (size_t r = 0; r < retrievals; ++r) head(retrievals == 1 ? "recall" : fmt::format("recall {}", r + 1));
  head("seconds");
  head("tokens/s");
  out += "</tr></thead><tbody>";
  const std::string* task = nullptr;
  for (const Cell& c : e.cells) {
    out += !task || *task != c.task ? "<tr class=\"first\">" : "<tr>";
    task = &c.task;
    fmt::format_to(std::back_inserter(out), "<td>{}</td><td>{}</td>", escape(pretty_task(c.task)), format_length(c.length));
    if (e.training_length) {
      const double ratio = static_cast<double>(c.length) / static_cast<double>(*e.training_length);
      out += value_cell(ratio >= 100 || c.length % *e.training_length == 0 ? thousands(std::llround(ratio)) : fmt::format("{:.3g}", ratio));
    }
    out += value_cell(std::to_string(c.forced.samples) + (c.shared_window ? "*" : "")) + score_cell(&c.forced);
    if (generated) out += score_cell(c.generated ? &*c.generated : nullptr);
    if (tokens) out += value_cell(percent(c.token_accuracy));
    if (floor) out += score_cell(c.floor ? &*c.floor : nullptr) + value_cell(c.floor ? std::to_string(c.floor->samples) : "-");
    if (chance) out += value_cell(percent(c.chance));
    for (size_t r = 0; r < retrievals; ++r) out += value_cell(r < c.recall.size() ? percent(c.recall[r]) : "-");
    out += value_cell(format_value(c.seconds, Format::kCount)) + value_cell(format_value(c.tokens_per_second, Format::kCount)) + "</tr>";
  }
  out += "</tbody></table></div>";
  if (shared) {
    out +=
        "<p class=\"note\">* All samples of the cell stand in one text, in which only the needles change: the interval speaks of needles, "
        "not of "
        "texts.</p>";
  }
  return out;
}

std::string diagnosis_table(const Evaluation& e) {
  if (std::none_of(e.cells.begin(), e.cells.end(), [](const Cell& c) { return c.diagnosis.has_value(); })) return {};
  std::string out = fmt::format(
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Retrieval of {0}\"><table><caption>{0}</caption><thead><tr>"
      "<th scope=\"col\">task</th><th scope=\"col\">length</th><th scope=\"col\">retrieval</th><th scope=\"col\">rows</th>"
      "<th scope=\"col\">rank, median</th><th scope=\"col\">rank, 90 %</th><th scope=\"col\">first</th><th scope=\"col\">chosen</th>"
      "<th scope=\"col\">KL, nats</th><th scope=\"col\">Spearman</th><th scope=\"col\">lost without the source</th>"
      "<th scope=\"col\">lost without another</th></tr></thead><tbody>",
      escape(e.label));
  const auto mean = [](const MeanValue& m, int digits) {
    if (m.count == 0) return value_cell("-");
    const std::string error =
        std::isfinite(m.standard_error) ? fmt::format(" <small>\u00b1 {:.{}f}</small>", m.standard_error, digits) : "";
    return fmt::format("<td>{:.{}f}{}</td>", m.mean, digits, error);
  };
  for (const Cell& c : e.cells) {
    if (!c.diagnosis) continue;
    for (size_t r = 0; r < c.diagnosis->retrievals.size(); ++r) {
      const RetrievalDetail& d = c.diagnosis->retrievals[r];
      const auto rank = [](double value) { return value_cell(std::isfinite(value) ? thousands(std::llround(value)) : "-"); };
      fmt::format_to(std::back_inserter(out), "<tr{}><td>{}</td><td>{}</td><td>{}</td><td>{}</td>", r == 0 ? " class=\"first\"" : "",
                     escape(pretty_task(c.task)), format_length(c.length), r + 1, thousands(d.rows));
      out += rank(d.rank_median) + rank(d.rank_90) + value_cell(percent(d.recall_at_1)) +
             value_cell(r < c.recall.size() ? percent(c.recall[r]) : "-") + mean(d.kl, 3) + mean(d.spearman, 3);
      // The drops belong to the cell, not to one retrieval.
      out += r == 0 ? mean(c.diagnosis->source_drop, 3) + mean(c.diagnosis->other_drop, 3) : "<td></td><td></td>";
      out += "</tr>";
    }
  }
  return out + "</tbody></table></div>";
}

std::string times_table(const Evaluation& e) {
  if (std::none_of(e.cells.begin(), e.cells.end(), [](const Cell& c) { return std::isfinite(c.seconds_reading); })) return {};
  std::string out = fmt::format(
      "<details><summary>Where the time went: {}</summary><div class=\"scroll\"><table><thead><tr><th scope=\"col\">task</th>"
      "<th scope=\"col\">length</th><th scope=\"col\">seconds</th><th scope=\"col\">reading</th><th scope=\"col\">edits</th>"
      "<th scope=\"col\">asking</th><th scope=\"col\">generating</th><th scope=\"col\">ms a token</th><th scope=\"col\">state</th>"
      "<th scope=\"col\">GPU peak</th></tr></thead><tbody>",
      escape(e.label));
  const auto seconds = [](double value) { return value_cell(std::isfinite(value) ? fmt::format("{:.3g}", value) : "-"); };
  const auto bytes = [](double value) { return value_cell(std::isfinite(value) ? format_bytes(value) : "-"); };
  for (const Cell& c : e.cells) {
    fmt::format_to(std::back_inserter(out), "<tr><td>{}</td><td>{}</td>", escape(pretty_task(c.task)), format_length(c.length));
    out += seconds(c.seconds) + seconds(c.seconds_reading) + seconds(c.seconds_edits) + seconds(c.seconds_asking) +
           seconds(c.seconds_generating) + seconds(c.decode_milliseconds) + bytes(c.state_bytes) + bytes(c.device_peak_bytes) + "</tr>";
  }
  return out + "</tbody></table></div></details>";
}

std::string pairs_table(const Pairs& pairs, const std::string& caption) {
  if (pairs.empty()) return {};
  std::string out = fmt::format("<details><summary>{}</summary><div class=\"scroll\"><table><tbody>", escape(caption));
  for (const auto& [name, value] : pairs) {
    fmt::format_to(std::back_inserter(out), "<tr><td class=\"text\">{}</td><td class=\"text wrap\">{}</td></tr>", escape(name),
                   escape(value));
  }
  return out + "</tbody></table></div></details>";
}

std::string events_table(const Run& run) {
  if (run.events.empty()) return {};
  std::string out = fmt::format(
      "<details><summary>What happened during {}: {} events</summary><div class=\"scroll\"><table><thead><tr><th scope=\"col\">event</th>"
      "<th scope=\"col\">step</th><th scope=\"col\">tokens</th><th scope=\"col\" class=\"text\">what</th></tr></thead><tbody>",
      escape(run.label), run.events.size());
  for (const Event& e : run.events) {
    fmt::format_to(std::back_inserter(out), "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"text wrap\">{}</td></tr>", escape(e.kind),
                   thousands(e.step), format_value(e.tokens, Format::kCount), escape(e.text));
  }
  return out + "</tbody></table></div></details>";
}

}  // namespace cairn::report
