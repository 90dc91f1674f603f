// The page of the inspector. Questions, answers and the chunks read most are HTML; what single tokens read is JSON, one script element a
// question, parsed when a token of it is selected, so that a thousand questions open as quickly as one.
#include "cairn/report/inspector.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "cairn/core/error.h"
#include "cairn/report/chart.h"
#include "cairn/report/page.h"
#include "cairn/report/summary.h"

namespace cairn::report {
namespace {

using nlohmann::json;

constexpr size_t kBlock = 64;      // chunks of one JSON element
constexpr size_t kTop = 3;         // chunks that a question shows without a token being selected
constexpr size_t kShort = 170;     // characters of a chunk in a list
constexpr int64_t kStrip = 1000;   // width of a strip in its own units
constexpr int64_t kBins = 250;     // places of marks that an answer as a whole can show
constexpr size_t kManyFound = 12;  // from as many questions on there is a field to search them
constexpr double kNamed = 0.09;    // share of the strip from which a document's name is written below it

// JSON inside a script element: no tag, comment or character reference can begin in it, and no line separator that old parsers refuse.
std::string script_json(const json& value) {
  const std::string text = value.dump();
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '<' || text[i] == '>' || text[i] == '&') {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(text[i]));
    } else if (text.compare(i, 3, "\xE2\x80\xA8") == 0 || text.compare(i, 3, "\xE2\x80\xA9") == 0) {
      out += text[i + 2] == '\xA8' ? "\\u2028" : "\\u2029";
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

double rounded(double share) { return std::round(share * 1e5) / 1e5; }

// White space as single spaces, at most kShort characters.
std::string shortened(const std::string& text) {
  std::string out;
  size_t characters = 0;
  bool space = false;
  for (const char c : text) {
    if (c == ' ' || c == '\n' || c == '\t' || c == '\r') {
      space = !out.empty();
      continue;
    }
    if ((static_cast<unsigned char>(c) & 0xC0u) != 0x80u && ++characters > kShort) return out + "\u2026";
    if (space) out += ' ', ++characters;
    space = false;
    out += c;
  }
  return out;
}

// What a button shows for a token: line ends and empty texts become visible.
std::string token_face(const std::string& text) {
  if (text.empty()) return "<i>\u2205</i>";
  if (text.find_first_not_of(" \t\r\n") == std::string::npos && text.find('\n') == std::string::npos) return "<i>\u2423</i>";
  std::string out = escape(text);
  for (size_t at = 0; (at = out.find('\n', at)) != std::string::npos; at += 10) out.replace(at, 1, "<i>\u21b5</i>");
  return out;
}

class Inspector {
 public:
  explicit Inspector(const Answers& answers) : a_(answers) {
    for (const Answers::Document& d : a_.documents) chunks_ = std::max(chunks_, d.end_chunk);
    memory_end_ = chunks_;
    if (!a_.chunks.empty()) chunks_ = std::max(chunks_, a_.chunks.back().chunk + 1);
    for (const auto& q : a_.questions) {
      for (const auto& t : q.tokens) {
        for (const auto& r : t.reads) retrievals_ = std::max(retrievals_, r.retrieval + 1);
      }
    }
    lane_ = retrievals_ == 1 ? 22 : std::max<int64_t>(4, std::min<int64_t>(14, 96 / retrievals_));
  }

  std::string write() {
    const std::string data = chunk_data();
    nonce_ = hash_hex(data + a_.fingerprint + a_.created + a_.command);
    head();
    header();
    add("{}", bands());
    if (a_.questions.empty()) add("<p class=\"note\">The file holds no question.</p>");
    for (size_t q = 0; q < a_.questions.size(); ++q) question(q);
    origin();
    add("{}", data);
    add("<footer>Made by <code>cairn inspect</code>, version {}. This page loads nothing from anywhere.</footer>\n</main>\n<script "
        "nonce=\"{}\">{}</script></body></html>\n",
        CAIRN_VERSION, nonce_, inspector_script());
    return std::move(out_);
  }

 private:
  template <typename... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }

  double place(int64_t chunk) const {
    return (static_cast<double>(chunk) + 0.5) / static_cast<double>(std::max<int64_t>(1, chunks_)) * kStrip;
  }

  // "book.txt, bytes 1,088–1,152"
  std::string where(const Answers::Chunk& chunk) const {
    if (chunk.document == kWhileAnswering) return fmt::format("written while answering, chunk {}", thousands(chunk.chunk));
    return fmt::format("{}, bytes {}\u2013{}", a_.documents[static_cast<size_t>(chunk.document)].name, thousands(chunk.begin),
                       thousands(chunk.end));
  }

  std::string summary() const {
    const auto plural = [](size_t n, const char* word) {
      return fmt::format("{} {}{}", thousands(static_cast<int64_t>(n)), word, n == 1 ? "" : "s");
    };
    std::string text = plural(a_.questions.size(), "question") + ", asked of " + thousands(a_.memory_tokens) + " tokens";
    if (a_.documents.size() == 1) return text + " of " + a_.documents[0].name;
    return a_.documents.empty() ? text : text + " in " + plural(a_.documents.size(), "document");
  }

  void head() {
    // As in a report: nothing from outside, and only the page's own scripts run.
    add("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" content=\"width=device-width, "
        "initial-scale=1\"/>"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{0}'\"/>"
        "<meta name=\"generator\" content=\"Cairn {1}\"/><title>{2} \u2013 Cairn inspector</title><style>{3}{4}</style>"
        "<script nonce=\"{0}\">{5}</script></head>\n<body><main>\n",
        nonce_, CAIRN_VERSION, escape(summary()), page_style(), inspector_style(), inspector_guard());
  }

  void header() {
    add("<header><p class=\"brand\">Cairn inspector</p><h1>{}</h1>", escape(summary()));
    add("<p class=\"note\">Each answer stands token by token, the darker the surer. Select a token, with the mouse or the arrow keys, to "
        "see "
        "which chunks of the text it read; select a chunk to see it in its place.</p><noscript><p class=\"note\">Without JavaScript the "
        "page shows the answers and the chunks that each read most.</p></noscript>");
    if (a_.questions.size() >= kManyFound) {
      add("<p class=\"find\" hidden=\"\"><label for=\"find\">Find a question or answer</label> <input id=\"find\" type=\"search\" "
          "autocomplete=\"off\"/> <output for=\"find\"></output></p>");
    }
    add("</header>\n");
  }

  // Every second document as a band, and what was written while answering; drawn once and used by all strips.
  std::string bands() const {
    std::string even, height = std::to_string(lane_ * retrievals_);
    const double scale = static_cast<double>(kStrip) / static_cast<double>(std::max<int64_t>(1, chunks_));
    for (size_t d = 1; d < a_.documents.size(); d += 2) {
      const double begin = static_cast<double>(a_.documents[d].begin_chunk) * scale,
                   end = static_cast<double>(a_.documents[d].end_chunk) * scale;
      if (end - begin > 0.05) even += fmt::format("M{:.2f} 0H{:.2f}V{}H{:.2f}z", begin, end, height, begin);
    }
    std::string own;
    if (memory_end_ < chunks_)
      own = fmt::format("M{:.2f} 0H{}V{}H{:.2f}z", static_cast<double>(memory_end_) * scale, kStrip, height,
                        static_cast<double>(memory_end_) * scale);
    return fmt::format(
        "<svg class=\"shared\" width=\"0\" height=\"0\" aria-hidden=\"true\"><defs><g id=\"bands\"><path class=\"even\" d=\"{}\"/>"
        "<path class=\"own\" d=\"{}\"/></g></defs></svg>\n",
        even, own);
  }

  // Names of the documents that are wide enough, under the strip.
  std::string names() const {
    std::string out;
    int64_t at = 0;
    const auto span = [&](int64_t end, const std::string& name) {
      if (end > at) out += fmt::format("<span style=\"flex:{}\">{}</span>", end - at, escape(name));
      at = std::max(at, end);
    };
    const double least = kNamed * static_cast<double>(chunks_);
    for (const Answers::Document& d : a_.documents) {
      if (static_cast<double>(d.end_chunk - std::max(at, d.begin_chunk)) < least) continue;
      span(d.begin_chunk, "");
      span(d.end_chunk, d.name);
    }
    if (static_cast<double>(chunks_ - memory_end_) >= least) span(memory_end_, ""), span(chunks_, "while answering");
    span(chunks_, "");
    return "<div class=\"names\" aria-hidden=\"true\">" + out + "</div>";
  }

  // Where the answer as a whole has read: a lane a retrieval, four strengths.
  std::string strip(const Answers::Question& q) const {
    std::map<std::pair<int64_t, int64_t>, double> weights;  // (retrieval, bin)
    double most = 0;
    for (const auto& t : q.tokens) {
      for (const auto& r : t.reads) {
        const auto bin = static_cast<int64_t>(place(a_.chunks[r.chunk].chunk) / kStrip * kBins);
        most = std::max(most, weights[{r.retrieval, bin}] += r.weight);
      }
    }
    std::string marks;
    std::map<std::pair<int64_t, int>, std::string> paths;  // (retrieval, strength)
    for (const auto& [key, weight] : weights) {
      if (weight <= 0) continue;
      const int strength = std::clamp(static_cast<int>(std::ceil(std::sqrt(weight / most) * 4)), 1, 4);
      const double x = (static_cast<double>(key.second) + 0.5) * kStrip / kBins;
      paths[{key.first, strength}] += fmt::format("M{:.0f} {}v{}", x, key.first * lane_ + 1, lane_ - 2);
    }
    for (const auto& [key, path] : paths) {
      marks += fmt::format("<path class=\"m\" d=\"{}\" stroke=\"var(--c{})\" stroke-opacity=\"{:.2g}\"/>", path, key.first % 8,
                           0.25 * key.second);
    }
    return fmt::format(
        "<div class=\"where\"><svg class=\"strip\" viewBox=\"0 0 {0} {1}\" style=\"height:{1}px\" preserveAspectRatio=\"none\" "
        "role=\"img\" "
        "aria-label=\"Where in the text this answer has read\"><use href=\"#bands\"/><g class=\"all\">{2}</g></svg>{3}</div>",
        kStrip, lane_ * retrievals_, marks, names());
  }

  std::string top(size_t index, const Answers::Question& q) const {
    std::map<size_t, double> weights;
    double sum = 0;
    for (const auto& t : q.tokens) {
      for (const auto& r : t.reads) weights[r.chunk] += r.weight, sum += r.weight;
    }
    std::vector<std::pair<double, size_t>> order;
    for (const auto& [chunk, weight] : weights) {
      if (weight > 0) order.emplace_back(-weight, chunk);
    }
    if (order.empty()) return "<div class=\"top\"><p class=\"note\">This answer has read no chunk.</p></div>";
    std::sort(order.begin(), order.end());
    std::string out = "<div class=\"top\"><h3>Read most over the whole answer</h3><ol>";
    for (size_t i = 0; i < std::min(kTop, order.size()); ++i) {
      const Answers::Chunk& chunk = a_.chunks[order[i].second];
      const std::string share = percent(-order[i].first / sum);
      out += fmt::format(
          "<li><a class=\"read\" href=\"#q={}&amp;c={}\"><span class=\"bar\"><b style=\"width:{:.1f}%\"></b></span><span "
          "class=\"share\">{}</span><span class=\"from\">{}</span><span class=\"said\" dir=\"auto\">{}</span></a></li>",
          index, chunk.chunk, -order[i].first / sum * 100, escape(share), escape(where(chunk)), escape(shortened(chunk.text)));
    }
    return out + "</ol></div>";
  }

  void question(size_t index) {
    const Answers::Question& q = a_.questions[index];
    add("<section class=\"q\" id=\"q{0}\" data-q=\"{0}\"><h2><span class=\"n\">{1}</span><span class=\"ask\" dir=\"auto\">{2}</span></h2>",
        index, index + 1, escape(q.question));
    std::string joined;
    const Answers::Token* unsure = nullptr;
    add("<div class=\"answer\" role=\"group\" aria-label=\"Answer, token by token\" dir=\"auto\">");
    for (size_t t = 0; t < q.tokens.size(); ++t) {
      const Answers::Token& token = q.tokens[t];
      joined += token.text;
      if (!unsure || token.probability < unsure->probability) unsure = &token;
      add("<button type=\"button\" class=\"tok\" data-t=\"{}\" tabindex=\"{}\" style=\"--p:{:.3g}\" title=\"{}\">{}</button>", t,
          t == 0 ? 0 : -1, token.probability, escape(percent(token.probability)), token_face(token.text));
      if (token.text.find('\n') != std::string::npos) add("<br/>");
    }
    add("</div>");
    // Tokens may hold more than the answer, such as an end mark, or less, such as half a character.
    if (joined != q.answer) add("<p class=\"plain\"><small>as text</small> <span dir=\"auto\">{}</span></p>", escape(q.answer));
    add("<p class=\"facts\">{} token{} in {:.3g} s", q.tokens.size(), q.tokens.size() == 1 ? "" : "s", q.seconds);
    if (unsure && q.tokens.size() > 1)
      add("; least sure: \u201c{}\u201d with {}", escape(shortened(unsure->text)), escape(percent(unsure->probability)));
    add("</p>{}<div class=\"panel\"></div>{}", strip(q), top(index, q));
    add("<script type=\"application/json\" id=\"d{}\">{}</script></section>\n", index, token_data(q));
  }

  // Per token: [probability, [[retrieval, chunk's place, weight, chunk's place, weight, ...], ...]]
  static std::string token_data(const Answers::Question& q) {
    json tokens = json::array();
    for (const auto& t : q.tokens) {
      json lists = json::array();
      for (const auto& r : t.reads) {
        if (lists.empty() || lists.back()[0] != r.retrieval) lists.push_back(json::array({r.retrieval}));
        lists.back().push_back(r.chunk);
        lists.back().push_back(rounded(r.weight));
      }
      tokens.push_back(json::array({t.probability, std::move(lists)}));
    }
    return script_json(tokens);
  }

  std::string chunk_data() const {
    json file = {{"total", chunks_}, {"lane", lane_}, {"retrievals", retrievals_}, {"block", kBlock}, {"documents", json::array()}};
    json& numbers = file["numbers"] = json::array();
    for (const auto& d : a_.documents) file["documents"].push_back({d.name, d.bytes});
    for (const auto& c : a_.chunks) numbers.push_back(c.chunk);
    std::string out = fmt::format("<script type=\"application/json\" id=\"file\">{}</script>\n", script_json(file));
    for (size_t begin = 0; begin < a_.chunks.size(); begin += kBlock) {
      json block = json::array();
      for (size_t i = begin; i < std::min(begin + kBlock, a_.chunks.size()); ++i) {
        const Answers::Chunk& c = a_.chunks[i];
        block.push_back(json::array({c.document, c.begin, c.end, c.before, c.text, c.after}));
      }
      fmt::format_to(std::back_inserter(out), "<script type=\"application/json\" id=\"k{}\">{}</script>\n", begin / kBlock,
                     script_json(block));
    }
    return out;
  }

  void origin() {
    Pairs facts = {{"model", a_.model}, {"fingerprint", a_.fingerprint}};
    if (!a_.memory.empty()) facts.emplace_back("memory", a_.memory);
    facts.emplace_back("made", a_.created);
    facts.emplace_back("tokens read", thousands(a_.memory_tokens));
    facts.emplace_back("tokens a chunk", thousands(a_.chunk));
    constexpr size_t kNamedDocuments = 200;
    for (size_t d = 0; d < std::min(kNamedDocuments, a_.documents.size()); ++d) {
      facts.emplace_back("document", fmt::format("{} ({} bytes, {} chunks)", a_.documents[d].name, thousands(a_.documents[d].bytes),
                                                 thousands(a_.documents[d].end_chunk - a_.documents[d].begin_chunk)));
    }
    if (a_.documents.size() > kNamedDocuments) {
      facts.emplace_back("", fmt::format("and {} documents more", thousands(static_cast<int64_t>(a_.documents.size() - kNamedDocuments))));
    }
    add("<section class=\"origin\"><h2>Where the answers come from</h2><pre>{}</pre>{}</section>\n", escape(a_.command),
        pairs_table(facts, "Model and texts"));
  }

  const Answers& a_;
  std::string out_, nonce_;
  int64_t chunks_ = 0, memory_end_ = 0;  // of the strip; of the text that was read before the questions
  int64_t retrievals_ = 1, lane_ = 0;    // lane_: height of one retrieval in a strip, pixels
};

}  // namespace

std::string inspector_page(const Answers& answers) { return Inspector(answers).write(); }

}  // namespace cairn::report

namespace cairn {

void write_inspector(const fs::path& answers_json, const fs::path& html) {
  if (html.extension() != ".html" && html.extension() != ".htm") {
    throw UserError("{}: the inspector is an HTML file; give a name that ends in .html", html.string());
  }
  std::error_code error;
  if (fs::equivalent(answers_json, html, error)) throw UserError("{} would be overwritten, but it is the input", html.string());
  if (fs::is_directory(html, error)) throw UserError("{} is a folder; -o names a file", html.string());
  write_file(html, report::inspector_page(report::read_answers(answers_json)));
}

}  // namespace cairn
