// A small writer of SVG: shapes, text and tooltips in a theme's colours; escapes everything it is given.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cairn::report {

// Text for HTML, XML and attributes: & < > " ' escaped, control characters dropped, what is not UTF-8 replaced by U+FFFD.
std::string escape(std::string_view text);

// Colours as SVG understands them. The page's are CSS variables (light and dark); the paper's are fixed, for files that stand alone.
struct Theme {
  std::string ink, muted, grid, surface;
  std::vector<std::string> series;
  bool standalone = false;
  const std::string& color(size_t i) const { return series[i % series.size()]; }
};
const Theme& page_theme();
const Theme& paper_theme();

// Accuracy 0..1 (or NaN) -> fill and text colour of a heat map's cell: pale to deep blue, lightness falls monotonically, so that it
// survives colour blindness and grey printing.
std::pair<std::string, std::string> heat_colors(double accuracy);

// Width of a text in a common sans-serif face, estimated.
double text_width(std::string_view text, double size);

enum class Anchor { kStart, kMiddle, kEnd };

class Svg {
 public:
  // `id` must be unique in its document; title and description are read out by screen readers.
  Svg(double width, double height, const Theme& theme, std::string id, std::string title, std::string description);

  void line(double x1, double y1, double x2, double y2, const std::string& stroke, double width, const std::string& dash = {});
  void polyline(const std::vector<std::pair<double, double>>& points, const std::string& stroke, double width,
                const std::string& dash = {});
  void polygon(const std::vector<std::pair<double, double>>& points, const std::string& fill, double opacity);
  void rect(double x, double y, double width, double height, const std::string& fill, double radius = 0, const std::string& stroke = {});
  void text(double x, double y, std::string_view text, double size, Anchor anchor, const std::string& fill, bool bold = false,
            double rotate = 0);
  // Shapes 0..7: circle, square, triangle, diamond, triangle down, plus, hexagon, bar. Hollow ones show the surface inside.
  void marker(double x, double y, size_t shape, const std::string& color, double radius, bool hollow = false);
  // What is drawn until end_group() shows `tip` when pointed at or tapped.
  void begin_tip(std::string_view tip);
  void begin_group(double dx, double dy);
  void end_group();
  // A hatched pattern for cells without samples; returns the fill.
  std::string hatch();

  const Theme& theme() const { return theme_; }
  double width() const { return width_; }
  double height() const { return height_; }
  const std::string& id() const { return id_; }
  void append(const Svg& other, double dx, double dy);  // as a group
  std::string finish() const;

 private:
  double width_, height_;
  const Theme& theme_;
  std::string id_, title_, description_, body_, definitions_;
  bool hatched_ = false;
};

}  // namespace cairn::report
