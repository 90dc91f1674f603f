#include "cairn/report/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

#include "cairn/core/error.h"

namespace cairn::report {
namespace {

constexpr const char* kFonts =
    "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', 'Liberation Sans', Arial, sans-serif";

// Bytes of the well-formed UTF-8 sequence at text[i], or 0.
size_t utf8_length(std::string_view text, size_t i) {
  const auto byte = [&](size_t k) { return k < text.size() ? static_cast<unsigned char>(text[k]) : 0u; };
  const unsigned lead = byte(i);
  const auto tail = [&](size_t k) { return (byte(k) & 0xC0u) == 0x80u; };
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return tail(i + 1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    const unsigned second = byte(i + 1);
    if (!tail(i + 1) || !tail(i + 2) || (lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F)) return 0;
    if (lead == 0xEF && second == 0xBF && byte(i + 2) >= 0xBE) return 0;  // U+FFFE and U+FFFF are no XML characters
    return 3;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    const unsigned second = byte(i + 1);
    if (!tail(i + 1) || !tail(i + 2) || !tail(i + 3) || (lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F)) return 0;
    return 4;
  }
  return 0;
}

std::string points_attribute(const std::vector<std::pair<double, double>>& points) {
  std::string out;
  for (const auto& [x, y] : points) fmt::format_to(std::back_inserter(out), "{}{:.1f},{:.1f}", out.empty() ? "" : " ", x, y);
  return out;
}

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_length(text, i);
    const char c = text[i];
    if (length == 0) {
      out += "\xEF\xBF\xBD";
    } else if (length > 1) {
      out += text.substr(i, length);
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (c == '\'') {
      out += "&#39;";
    } else if (c == '\n' || c == '\t' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7F)) {
      out += c;
    }
    i += std::max<size_t>(length, 1);
  }
  return out;
}

const Theme& page_theme() {
  static const Theme theme{"var(--ink)",
                           "var(--muted)",
                           "var(--grid)",
                           "var(--card)",
                           {"var(--c0)", "var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", "var(--c6)", "var(--c7)"},
                           false};
  return theme;
}

const Theme& paper_theme() {
  static const Theme theme{
      "#1b232c", "#5a6673", "#dfe4ea", "#ffffff", {"#0f62b4", "#c64a08", "#0b7a63", "#93388a", "#8a6200", "#4a4bb8", "#5b6470", "#ad1f3c"},
      true};
  return theme;
}

std::pair<std::string, std::string> heat_colors(double accuracy) {
  static constexpr std::array<std::array<double, 4>, 6> kStops = {
      {{0, 255, 241, 196}, {.25, 190, 226, 190}, {.5, 101, 189, 191}, {.75, 44, 132, 184}, {.95, 27, 83, 150}, {1, 17, 54, 120}}};
  const double a = std::clamp(std::isnan(accuracy) ? 0.0 : accuracy, 0.0, 1.0);
  size_t i = 1;
  while (i + 1 < kStops.size() && a > kStops[i][0]) ++i;
  const double t = (a - kStops[i - 1][0]) / (kStops[i][0] - kStops[i - 1][0]);
  std::array<int, 3> rgb{};
  for (size_t c = 0; c < 3; ++c)
    rgb[c] = static_cast<int>(std::lround(kStops[i - 1][c + 1] + t * (kStops[i][c + 1] - kStops[i - 1][c + 1])));
  return {fmt::format("#{:02x}{:02x}{:02x}", rgb[0], rgb[1], rgb[2]), a < 0.62 ? "#14212e" : "#ffffff"};
}

double text_width(std::string_view text, double size) {
  double ems = 0;
  for (const char c : text) {
    if ((static_cast<unsigned char>(c) & 0xC0u) == 0x80u) continue;
    const bool narrow =
        c == 'i' || c == 'l' || c == 'j' || c == 't' || c == 'f' || c == ' ' || c == '.' || c == ',' || c == ':' || c == '\'' || c == '|';
    const bool wide = c == 'm' || c == 'w' || c == 'M' || c == 'W' || c == '%';
    ems += narrow ? 0.31 : wide ? 0.86 : (c >= 'A' && c <= 'Z') ? 0.68 : 0.57;
  }
  return ems * size;
}

Svg::Svg(double width, double height, const Theme& theme, std::string id, std::string title, std::string description)
    : width_(width), height_(height), theme_(theme), id_(std::move(id)), title_(std::move(title)), description_(std::move(description)) {}

void Svg::line(double x1, double y1, double x2, double y2, const std::string& stroke, double width, const std::string& dash) {
  fmt::format_to(std::back_inserter(body_),
                 "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" stroke-width=\"{:.2g}\"", x1, y1, x2, y2,
                 stroke, width);
  if (!dash.empty()) fmt::format_to(std::back_inserter(body_), " stroke-dasharray=\"{}\"", dash);
  body_ += "/>";
}

void Svg::polyline(const std::vector<std::pair<double, double>>& points, const std::string& stroke, double width, const std::string& dash) {
  if (points.size() < 2) return;
  fmt::format_to(std::back_inserter(body_),
                 "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{:.2g}\" stroke-linejoin=\"round\"",
                 points_attribute(points), stroke, width);
  if (!dash.empty()) fmt::format_to(std::back_inserter(body_), " stroke-dasharray=\"{}\"", dash);
  body_ += "/>";
}

void Svg::polygon(const std::vector<std::pair<double, double>>& points, const std::string& fill, double opacity) {
  fmt::format_to(std::back_inserter(body_), "<polygon points=\"{}\" fill=\"{}\" fill-opacity=\"{:.2g}\"/>", points_attribute(points), fill,
                 opacity);
}

void Svg::rect(double x, double y, double width, double height, const std::string& fill, double radius, const std::string& stroke) {
  fmt::format_to(std::back_inserter(body_), "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\"", x, y, width,
                 height, fill);
  if (radius > 0) fmt::format_to(std::back_inserter(body_), " rx=\"{:.1f}\"", radius);
  if (!stroke.empty()) fmt::format_to(std::back_inserter(body_), " stroke=\"{}\"", stroke);
  body_ += "/>";
}

void Svg::text(double x, double y, std::string_view text, double size, Anchor anchor, const std::string& fill, bool bold, double rotate) {
  fmt::format_to(std::back_inserter(body_), "<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"{:.4g}\" fill=\"{}\"", x, y, size, fill);
  if (anchor != Anchor::kStart)
    fmt::format_to(std::back_inserter(body_), " text-anchor=\"{}\"", anchor == Anchor::kMiddle ? "middle" : "end");
  if (bold) body_ += " font-weight=\"600\"";
  if (rotate != 0) fmt::format_to(std::back_inserter(body_), " transform=\"rotate({:.0f} {:.1f} {:.1f})\"", rotate, x, y);
  fmt::format_to(std::back_inserter(body_), ">{}</text>", escape(text));
}

void Svg::marker(double x, double y, size_t shape, const std::string& color, double r, bool hollow) {
  const std::string& fill = hollow ? theme_.surface : color;
  const std::string paint = fmt::format("fill=\"{}\" stroke=\"{}\" stroke-width=\"1.5\"", fill, color);
  auto out = std::back_inserter(body_);
  auto shape_of = [&](std::initializer_list<std::pair<double, double>> corners) {
    std::vector<std::pair<double, double>> points;
    for (const auto& [dx, dy] : corners) points.emplace_back(x + r * dx, y + r * dy);
    fmt::format_to(out, "<polygon points=\"{}\" {}/>", points_attribute(points), paint);
  };
  switch (shape % 8) {
    case 0:
      fmt::format_to(out, "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\" {}/>", x, y, r, paint);
      break;
    case 1:
      shape_of({{-.9, -.9}, {.9, -.9}, {.9, .9}, {-.9, .9}});
      break;
    case 2:
      shape_of({{0, -1.2}, {1.1, .8}, {-1.1, .8}});
      break;
    case 3:
      shape_of({{0, -1.3}, {1.3, 0}, {0, 1.3}, {-1.3, 0}});
      break;
    case 4:
      shape_of({{0, 1.2}, {1.1, -.8}, {-1.1, -.8}});
      break;
    case 5:
      shape_of({{-.4, -1.2},
                {.4, -1.2},
                {.4, -.4},
                {1.2, -.4},
                {1.2, .4},
                {.4, .4},
                {.4, 1.2},
                {-.4, 1.2},
                {-.4, .4},
                {-1.2, .4},
                {-1.2, -.4},
                {-.4, -.4}});
      break;
    case 6:
      shape_of({{-1.15, 0}, {-.57, -1}, {.57, -1}, {1.15, 0}, {.57, 1}, {-.57, 1}});
      break;
    default:
      shape_of({{-.5, -1.3}, {.5, -1.3}, {.5, 1.3}, {-.5, 1.3}});
      break;
  }
}

void Svg::begin_tip(std::string_view tip) { body_ += "<g class=\"tip\"><title>" + escape(tip) + "</title>"; }

void Svg::begin_group(double dx, double dy) {
  fmt::format_to(std::back_inserter(body_), "<g transform=\"translate({:.1f} {:.1f})\">", dx, dy);
}

void Svg::end_group() { body_ += "</g>"; }

std::string Svg::hatch() {
  if (!hatched_) {
    hatched_ = true;
    fmt::format_to(std::back_inserter(definitions_),
                   "<pattern id=\"{}-hatch\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">"
                   "<rect width=\"6\" height=\"6\" fill=\"{}\"/><line x1=\"0\" y1=\"0\" x2=\"0\" y2=\"6\" stroke=\"{}\" "
                   "stroke-width=\"2\"/></pattern>",
                   id_, theme_.surface, theme_.grid);
  }
  return fmt::format("url(#{}-hatch)", id_);
}

void Svg::append(const Svg& other, double dx, double dy) {
  CAIRN_CHECK(other.id_ != id_, "two drawings share the id {}", id_);
  definitions_ += other.definitions_;
  begin_group(dx, dy);
  body_ += other.body_;
  end_group();
}

std::string Svg::finish() const {
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" role=\"img\" aria-labelledby=\"{2}-t {2}-d\" "
      "font-family=\"{3}\"",
      width_, height_, id_, kFonts);
  if (theme_.standalone) out += fmt::format(" width=\"{:.0f}\" height=\"{:.0f}\"", width_, height_);
  out += fmt::format("><title id=\"{0}-t\">{1}</title><desc id=\"{0}-d\">{2}</desc>", id_, escape(title_), escape(description_));
  if (!definitions_.empty()) out += "<defs>" + definitions_ + "</defs>";
  if (theme_.standalone) out += fmt::format("<rect width=\"{:.0f}\" height=\"{:.0f}\" fill=\"#ffffff\"/>", width_, height_);
  return out + body_ + "</svg>\n";
}

}  // namespace cairn::report
