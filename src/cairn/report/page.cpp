#include "cairn/report/page.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "cairn/report/figures.h"
#include "cairn/report/summary.h"

namespace cairn::report {
namespace {

// Writes sections one after the other; every drawing gets an id of its own.
class Page {
 public:
  explicit Page(const ReportData& data) : data_(data) {}

  std::string write() {
    head();
    header();
    if (!data_.evaluations.empty()) {
      depth();
      length();
    }
    if (!data_.runs.empty()) training();
    speeds();
    if (!data_.evaluations.empty()) tables();
    origin();
    foot();
    return std::move(out_);
  }

 private:
  template <typename... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }

  std::string id() { return fmt::format("g{}", ++drawings_); }

  void head() {
    // The policy forbids everything from outside; the script runs by its nonce, so no other script of a file can.
    nonce_ = hash_hex(numbers_json(data_));
    const std::string title = data_.evaluations.empty() ? data_.runs.front().label : data_.evaluations.front().label;
    add("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" content=\"width=device-width, "
        "initial-scale=1\"/>"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{}'\"/>"
        "<meta name=\"generator\" content=\"Cairn {}\"/><title>{} \u2013 Cairn report</title><style>{}</style></head>\n<body><main>\n",
        nonce_, CAIRN_VERSION, escape(title), page_style());
  }

  void header() {
    const bool many = data_.evaluations.size() > 1 || (data_.evaluations.empty() && data_.runs.size() > 1);
    add("<header><p class=\"brand\">Cairn report</p><h1{}>", many ? " class=\"many\"" : "");
    if (many && !data_.evaluations.empty()) {
      for (const Evaluation& e : data_.evaluations) add("<span>{}</span>", escape(verdict(e)));
    } else {
      add("{}", escape(verdict(data_)));
    }
    add("</h1>");
    if (data_.evaluations.size() == 1) tiles(data_.evaluations[0]);
    add("</header>\n");
  }

  void tiles(const Evaluation& e) {
    std::string tiles;
    const auto tile = [&](const std::string& name, const std::string& value) {
      tiles += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value));
    };
    if (e.training_length) tile("trained on texts of", format_length(*e.training_length) + " tokens");
    int64_t common = 0;
    bool all = true;
    for (const Reach& r : reaches(e)) {
      if (!r.best) continue;
      if (!r.longest) all = false;
      if (r.longest) common = common == 0 ? r.longest->length : std::min(common, r.longest->length);
    }
    if (all && common > 0) {
      tile(e.tasks().size() > 1 ? "all tasks 95 % or more up to" : "95 % or more up to", format_length(common) + " tokens");
      if (const std::string times = times_training(e, common); !times.empty()) tile("of the training length", times);
    }
    int64_t least = 0, most = 0;
    double floor = kMissing, speed = kMissing;
    for (const Cell& c : e.cells) {
      if (c.forced.samples > 0) least = least == 0 ? c.forced.samples : std::min(least, c.forced.samples);
      most = std::max(most, c.forced.samples);
      if (c.floor && c.floor->samples > 0 && c.length == e.lengths().back()) floor = std::fmax(floor, c.floor->accuracy);
      if (c.length == e.lengths().back()) speed = std::fmax(speed, c.tokens_per_second);
    }
    if (most > 0) tile("samples a cell", least == most ? std::to_string(most) : fmt::format("{} to {}", least, most));
    if (std::isfinite(floor)) tile("memory off, longest texts", percent(floor));
    if (std::isfinite(speed)) tile("reading speed there", format_value(speed, Format::kCount) + " tokens/s");
    if (!tiles.empty()) add("<dl class=\"tiles\">{}</dl>", tiles);
  }

  void figure(const std::string& title, const std::string& detail, const std::string& svg, double least = 0) {
    add("<figure><figcaption>{}{}</figcaption><div class=\"pan\"{}>{}</div></figure>", escape(title),
        detail.empty() ? "" : " <small>" + escape(detail) + "</small>", least > 0 ? fmt::format(" style=\"--least:{:.0f}px\"", least) : "",
        svg);
  }

  void small_chart(const Chart& chart, double height = 250) {
    figure(chart.title, "", draw_chart(chart, {380, height, 12, false}, page_theme(), id()).finish());
  }

  // One drawing for desks, one for phones: letters keep their size instead of shrinking with the picture.
  void large_chart(const Chart& chart) {
    add("<figure>");
    for (const bool wide : {true, false}) {
      const Size size = wide ? Size{1100, 440, 14, false} : Size{370, 400, 12.5, false};
      add("<div class=\"{}\">{}</div>", wide ? "wide" : "narrow", draw_chart(chart, size, page_theme(), id()).finish());
    }
    add("</figure>");
  }

  void depth() {
    add("<section id=\"depth\"><h2>Where in the text it finds the answer</h2><p class=\"note\">Each column is a text length, each row the "
        "depth at which the needle "
        "stood: 0\u2009% is the start of the text, 100\u2009% its end. Numbers are percent of samples with every answer token right; point "
        "at a cell for its "
        "counts.</p><figure class=\"plain\">{}</figure>",
        draw_heat_legend(page_theme(), id()).finish());
    for (const Evaluation& e : data_.evaluations) {
      if (data_.evaluations.size() > 1) add("<h3>{}</h3>", escape(e.label));
      add("<div class=\"grid\">");
      for (const std::string& task : e.tasks()) {
        const Svg map = draw_heatmap(e, task, {380, 0, 12, false}, page_theme(), id());
        figure(pretty_task(task), "", map.finish(), map.width() > 380 ? map.width() * 0.9 : 0);
      }
      add("</div>");
    }
    add("</section>\n");
  }

  void length() {
    add("<section id=\"length\"><h2>Accuracy over length</h2><p class=\"note\">Share of samples with every answer token right, with "
        "95\u2009% Wilson intervals. "
        "<em>Window only</em> is the same model with its memory switched off: a line that equals it has found nothing.</p>");
    const std::vector<std::string> tasks = all_tasks(data_.evaluations);
    if (data_.evaluations.size() == 1) {
      for (const Chart& chart : accuracy_overview(data_.evaluations)) large_chart(chart);
    }
    if (data_.evaluations.size() > 1 || tasks.size() > 1) {
      add("<h3>Task by task</h3><div class=\"grid\">");
      for (const std::string& task : tasks) small_chart(accuracy_of_task(data_.evaluations, task), 290);
      add("</div>");
    }
    std::vector<Chart> recalls;
    for (const Evaluation& e : data_.evaluations) {
      Chart chart = recall_over_length(e);
      if (data_.evaluations.size() > 1) chart.title = e.label;
      if (!chart.empty()) recalls.push_back(std::move(chart));
    }
    if (!recalls.empty()) {
      add("<h3>Was the right chunk among the chosen?</h3><div class=\"grid\">");
      for (Chart& chart : recalls) {
        if (recalls.size() == 1) chart.title = "Recall of the source chunk";
        small_chart(chart, 290);
      }
      add("</div>");
    }
    add("</section>\n");
  }

  void training() {
    add("<section id=\"training\"><h2>Training</h2><p class=\"note\">Lines are means of neighbouring steps, the bands behind them the "
        "extremes. Dotted verticals mark "
        "phases and gates.</p>");
    if (const std::vector<Chart> all = comparison_charts(data_.runs); !all.empty()) {
      add("<h3>All runs</h3><div class=\"grid\">");
      for (const Chart& chart : all) small_chart(chart);
      add("</div>");
    }
    for (const Run& run : data_.runs) {
      add("<h3>Run {}</h3>", escape(run.label));
      if (!data_.evaluations.empty()) add("<p class=\"note\">{}</p>", escape(verdict(run)));
      if (!run.notes.empty()) {
        add("<ul class=\"notes\">");
        for (const std::string& note : run.notes) add("<li>{}</li>", escape(note));
        add("</ul>");
      }
      add("<div class=\"grid\">");
      for (const Chart& chart : training_charts(run)) small_chart(chart);
      add("</div>");
      if (const std::string events = events_table(run); !events.empty()) add("<h3>Events</h3>{}", events);
    }
    add("</section>\n");
  }

  void speeds() {
    std::vector<Chart> charts = {training_speed(data_.runs), reading_speed(data_.evaluations)};
    std::erase_if(charts, [](const Chart& c) { return c.empty(); });
    if (charts.empty()) return;
    add("<section id=\"speed\"><h2>Speed</h2><p class=\"note\">Tokens a second on the machine named below.</p><div class=\"grid\">");
    for (const Chart& chart : charts) small_chart(chart);
    add("</div></section>\n");
  }

  void tables() {
    add("<section id=\"numbers\"><h2>All numbers</h2><p class=\"note\">N samples a cell; small figures are 95\u2009% Wilson intervals in "
        "percent. The same numbers "
        "stand in the CSV and JSON files beside this page.</p>");
    for (const Evaluation& e : data_.evaluations) add("{}", cells_table(e));
    add("</section>\n");
  }

  void origin() {
    add("<section id=\"origin\"><h2>Where the numbers come from</h2>");
    for (const Evaluation& e : data_.evaluations) {
      add("<h3>{}</h3>", escape(e.label));
      for (const std::string& command : e.commands) {
        if (!command.empty()) add("<pre>{}</pre>", escape(command));
      }
      Pairs facts;
      const auto fact = [&](const std::string& name, const std::string& value) {
        if (!value.empty()) facts.emplace_back(name, value);
      };
      fact("model", e.model);
      fact("fingerprint", e.fingerprint);
      fact("training length", e.training_length ? thousands(*e.training_length) + " tokens" : "not known");
      fact("haystack", e.haystack);
      fact("seed", e.seed);
      for (const std::string& source : e.sources) fact("file", source);
      for (const std::string& created : e.created) fact("made", created);
      fact("Cairn", e.version);
      facts.insert(facts.end(), e.environment.begin(), e.environment.end());
      add("{}{}", pairs_table(facts, "Model, texts and machine"), pairs_table(e.config, "Model configuration"));
    }
    for (const Run& run : data_.runs) {
      add("<h3>Run {}</h3>{}{}", escape(run.label), pairs_table(run.environment, "Machine"), pairs_table(run.config, "Configuration"));
      if (!run.config_toml.empty()) add("<details><summary>config.toml</summary><pre>{}</pre></details>", escape(run.config_toml));
    }
    add("</section>\n");
  }

  void foot() {
    add("<footer>Made by <code>cairn report</code>, version {}. This page loads nothing from anywhere.</footer>\n</main>\n<script "
        "nonce=\"{}\">{}</script></body></html>\n",
        CAIRN_VERSION, nonce_, page_script());
  }

  const ReportData& data_;
  std::string out_, nonce_;
  int drawings_ = 0;
};

}  // namespace

std::string page(const ReportData& data) { return Page(data).write(); }

}  // namespace cairn::report
