#include "cairn/report/page.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "cairn/report/figures.h"
#include "cairn/report/summary.h"

namespace cairn::report {
namespace {

// Running text: no line break between a number and its per cent sign.
std::string prose(const std::string& text) {
  std::string out = escape(text);
  for (size_t at = 0; (at = out.find(" %", at)) != std::string::npos;) out.replace(at, 1, "\u00a0");
  return out;
}

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
    if (!data_.perplexities.empty()) language();
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
    const std::string title = !data_.evaluations.empty() ? data_.evaluations.front().label
                              : !data_.runs.empty()      ? data_.runs.front().label
                                                         : data_.perplexities.front().label;
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
      for (const Evaluation& e : data_.evaluations) add("<span>{}</span>", prose(verdict(e)));
    } else {
      add("{}", prose(verdict(data_)));
    }
    add("</h1>");
    if (data_.evaluations.size() == 1) tiles(data_.evaluations[0]);
    add("</header>\n");
  }

  void tiles(const Evaluation& e) {
    std::string tiles;
    const auto tile = [&](const std::string& name, const std::string& value) {
      tiles += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", escape(name), prose(value));
    };
    if (e.training_length) tile("trained on texts of", format_length(*e.training_length) + " tokens");
    int64_t common = 0;  // the longest length at which every task has kGood
    for (const int64_t length : e.lengths()) {
      bool all = false;
      for (const std::string& task : e.tasks()) {
        const Cell* cell = e.find(task, length);
        all = cell && cell->forced.samples > 0 && cell->forced.accuracy >= kGood;
        if (!all) break;
      }
      if (all) common = length;
    }
    if (common > 0) {
      tile(e.tasks().size() > 1 ? "longest texts with all tasks at 95 % or more" : "longest texts with 95 % or more",
           format_length(common) + " tokens");
      if (const std::string times = times_training(e, common); !times.empty())
        tile("that is, times the training length", times.substr(0, times.find(' ')) + " \u00d7");
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
    if (std::isfinite(floor)) tile("right with the memory off, longest texts", percent(floor));
    if (std::isfinite(speed)) tile("reading speed, longest texts", format_value(speed, Format::kCount) + " tokens/s");
    if (!tiles.empty()) add("<dl class=\"tiles\">{}</dl>", tiles);
  }

  // One drawing for desks, one for phones: letters keep their size instead of shrinking with the picture. `columns` figures stand side by
  // side on a desk; three are as wide as a phone, and need one drawing only. `draw` takes a size.
  template <typename Draw>
  void figure(const std::string& title, int columns, double height, Draw draw) {
    static constexpr Size kWide[] = {{1100, 0, 14}, {530, 0, 13}, {370, 0, 12}};
    add("<figure>");
    if (!title.empty()) add("<figcaption>{}</figcaption>", escape(title));
    for (const bool wide : {true, false}) {
      if (!wide && columns == 3) break;
      Size size = wide ? kWide[columns - 1] : Size{362, 0, 12};
      size.height = wide && columns == 1 ? height * 1.5 : wide && columns == 2 ? height * 1.1 : height;
      const Svg svg = draw(size);
      const char* kind = columns == 3 ? "pan" : wide ? "pan wide" : "pan narrow";
      // Never smaller than can be read (the box scrolls then), never blown up.
      add("<div class=\"{}\" style=\"--least:{:.0f}px;--most:{:.0f}px\">{}</div>", kind,
          svg.width() > 400 && (columns == 3 || !wide) ? svg.width() * 0.9 : 0, svg.width() * 1.1, svg.finish());
    }
    add("</figure>");
  }

  void figure(const Chart& chart, int columns, double height = 250, bool titled = true) {
    figure(titled ? chart.title : "", columns, height, [&](const Size& size) { return draw_chart(chart, size, page_theme(), id()); });
  }

  // Figures side by side so that no row is left with a single one where that can be.
  static int columns_for(size_t figures) { return figures == 1 ? 1 : figures == 2 || figures == 4 ? 2 : 3; }
  void open_grid(int columns) { add("<div class=\"grid{}\">", columns == 1 ? " one" : columns == 2 ? " two" : ""); }

  void charts(const std::vector<Chart>& list, double height) {
    const int columns = std::max(2, columns_for(list.size()));
    open_grid(columns);
    for (const Chart& chart : list) figure(chart, columns, height);
    add("</div>");
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
      const std::vector<std::string> tasks = e.tasks();
      const int columns = columns_for(tasks.size());
      open_grid(columns);
      for (const std::string& task : tasks) {
        figure(pretty_task(task), columns, 0, [&](const Size& size) { return draw_heatmap(e, task, size, page_theme(), id()); });
      }
      add("</div>");
      failures(e);
    }
    add("</section>\n");
  }

  // Under the heat maps: what went wrong where something did.
  void failures(const Evaluation& e) {
    std::vector<std::string> tasks = e.tasks();
    std::erase_if(tasks, [&](const std::string& task) { return !has_failures(e, task); });
    if (tasks.empty()) return;
    add("<h3>Why samples failed</h3><p class=\"note\">By the first wrong token of a sample: no retrieval chose the chunk that states it; "
        "one "
        "did, but another chunk had more weight; or that chunk was the heaviest and was misread. Bars are drawn against the worst length "
        "of the task.</p>");
    const int columns = columns_for(tasks.size());
    open_grid(columns);
    for (const std::string& task : tasks) {
      figure(pretty_task(task), columns, 0, [&](const Size& size) { return draw_failures(e, task, size, page_theme(), id()); });
    }
    add("</div>");
  }

  void length() {
    add("<section id=\"length\"><h2>Accuracy over length</h2><p class=\"note\">Share of samples with every answer token right, with "
        "95\u2009% Wilson intervals. "
        "<em>Window only</em> is the same model with its memory switched off: a line that equals it has found nothing.</p>");
    const std::vector<std::string> tasks = all_tasks(data_.evaluations);
    if (data_.evaluations.size() == 1) {
      for (const Chart& chart : accuracy_overview(data_.evaluations)) figure(chart, 1, 300, false);
    }
    if (data_.evaluations.size() > 1 || tasks.size() > 1) {
      std::vector<Chart> by_task;
      for (const std::string& task : tasks) by_task.push_back(accuracy_of_task(data_.evaluations, task));
      add("<h3>Task by task</h3>");
      charts(by_task, 290);
    }
    std::vector<Chart> recalls;
    for (const Evaluation& e : data_.evaluations) {
      Chart chart = recall_over_length(e);
      if (data_.evaluations.size() > 1) chart.title = e.label;
      if (!chart.empty()) recalls.push_back(std::move(chart));
    }
    if (!recalls.empty()) {
      if (recalls.size() == 1) recalls[0].title = "Recall of the source chunk";
      add("<h3>Was the right chunk among the chosen?</h3>");
      charts(recalls, 290);
    }
    std::string details;
    for (const Evaluation& e : data_.evaluations) details += diagnosis_table(e);
    if (!details.empty()) {
      add("<h3>Retrieval in detail</h3><p class=\"note\">At the rows that predict an answer token: the rank of the best source chunk's "
          "landmark among all visible chunks; how the landmark softmax and scores agree with the true attention mass; and the "
          "log-probability, in nats, that the right token loses when its source chunk, or another chosen chunk, is switched off. Means "
          "\u00b1 standard error.</p>{}",
          details);
    }
    add("</section>\n");
  }

  void language() {
    add("<section id=\"language\"><h2>Language modelling</h2><p class=\"note\">The same tokens of running text are predicted behind "
        "contexts "
        "of different lengths. Below 0 in the second chart, the longer context helps; bars are 95\u2009% intervals of the paired "
        "difference, by tokens or by windows, whichever is wider. By position, the tokens differ from point to point.</p>");
    charts(language_charts(data_.perplexities), 270);
    for (const Perplexity& p : data_.perplexities) add("<p class=\"note\">{}</p>{}", prose(verdict(p)), perplexity_table(p));
    add("</section>\n");
  }

  void training() {
    add("<section id=\"training\"><h2>Training</h2><p class=\"note\">Lines are means of neighbouring steps, the bands behind them the "
        "extremes. Dotted verticals mark "
        "phases and gates.</p>");
    if (const std::vector<Chart> all = comparison_charts(data_.runs); !all.empty()) {
      add("<h3>All runs</h3>");
      charts(all, 250);
    }
    for (const Run& run : data_.runs) {
      add("<h3>Run {}</h3>", escape(run.label));
      if (!data_.evaluations.empty()) add("<p class=\"note\">{}</p>", prose(verdict(run)));
      if (!run.notes.empty()) {
        add("<ul class=\"notes\">");
        for (const std::string& note : run.notes) add("<li>{}</li>", escape(note));
        add("</ul>");
      }
      charts(training_charts(run), 260);
      if (const std::string events = events_table(run); !events.empty()) add("<h3>Events</h3>{}", events);
    }
    add("</section>\n");
  }

  void speeds() {
    std::vector<Chart> list = {training_speed(data_.runs), reading_speed(data_.evaluations), decoding_time(data_.evaluations),
                               memory_use(data_.evaluations)};
    std::erase_if(list, [](const Chart& c) { return c.empty(); });
    if (list.empty()) return;
    add("<section id=\"speed\"><h2>Speed</h2><p class=\"note\">On the machine named below. <em>Generating</em>: one greedy step behind a "
        "text of that "
        "length, one text alone. <em>Memory</em>: what is kept of the texts that were read together; dashed, the most that a GPU "
        "held.</p>");
    charts(list, 260);
    for (const Evaluation& e : data_.evaluations) add("{}", times_table(e));
    add("</section>\n");
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
    for (const Perplexity& p : data_.perplexities) {
      add("<h3>{}, loss</h3>", escape(p.label));
      if (!p.command.empty()) add("<pre>{}</pre>", escape(p.command));
      Pairs facts = {{"model", p.model},
                     {"fingerprint", p.fingerprint},
                     {"text", p.text},
                     {"windows", thousands(p.windows)},
                     {"targets a window", thousands(p.targets)},
                     {"file", p.source},
                     {"made", p.created},
                     {"Cairn", p.version}};
      std::erase_if(facts, [](const auto& fact) { return fact.second.empty(); });
      facts.insert(facts.end(), p.environment.begin(), p.environment.end());
      add("{}{}", pairs_table(facts, "Model, text and machine"), pairs_table(p.config, "Model configuration"));
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
