// plot.cpp: see plot.h. Order: ticks and ranges, SVG, terminal.
#include "trainer/loop/plot.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/base/error.h"
#include "trainer/loop/human.h"

namespace rookery::loop {
namespace {

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  void include(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

// One axis: from values to [0, 1].
struct Axis {
  Range range;
  bool log = false;
  double place(double value) const {
    if (log) return std::log(value / range.low) / std::log(range.high / range.low);
    return (value - range.low) / (range.high - range.low);
  }
};

bool drawable(const Chart& chart, const Series& s, size_t i) {
  return std::isfinite(s.x[i]) && std::isfinite(s.y[i]) && (!chart.log_x || s.x[i] > 0);
}

// The ranges of what is drawn, never empty; y gets room above and below.
std::pair<Axis, Axis> axes(const Chart& chart) {
  Axis x{{}, chart.log_x}, y;
  for (const Series& s : chart.series) {
    RK_CHECK(s.x.size() == s.y.size(), "[chart] series '", s.name, "' has ", s.x.size(), " x and ",
             s.y.size(), " y");
    for (size_t i = 0; i < s.x.size(); ++i) {
      if (!drawable(chart, s, i)) continue;
      x.range.include(s.x[i]);
      y.range.include(s.y[i]);
    }
  }
  if (x.range.low > x.range.high) x.range = y.range = {chart.log_x ? 1.0 : 0.0, chart.log_x ? 10.0 : 1.0};
  if (x.range.low == x.range.high) x.range.high = chart.log_x ? 10 * x.range.low : x.range.low + 1;
  const double spread = y.range.high - y.range.low, room = spread > 0 ? 0.05 * spread : 0.5;
  y.range = {y.range.low - room, y.range.high + room};
  return {x, y};
}

std::vector<double> ticks_of(const Axis& axis, int count) {
  return axis.log ? log_ticks(axis.range.low, axis.range.high)
                  : nice_ticks(axis.range.low, axis.range.high, count);
}

struct Unit {
  double size;
  std::string_view suffix;
};

// The unit in which the largest tick has one to three digits before the point.
Unit unit_for(double largest) {
  constexpr std::array<Unit, 5> kUnits = {Unit{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}, {1, ""}};
  if (largest < 10'000) return kUnits.back();
  return *std::find_if(kUnits.begin(), kUnits.end(), [&](const Unit& u) { return largest >= u.size; });
}

}  // namespace

std::vector<double> nice_ticks(double low, double high, int count) {
  const double raw = (high - low) / std::max(count, 1);
  const double power = std::pow(10, std::floor(std::log10(raw)));
  const double lead = raw / power;
  const double step = power * (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10);
  std::vector<double> ticks;
  if (!std::isfinite(step) || !(step > 0)) return ticks;
  // A count instead of a running sum: ticks stay multiples, and a step below the resolution of `low` cannot
  // loop for ever.
  const double first = std::ceil(low / step - 1e-9), last = std::floor(high / step + 1e-9);
  for (double k = 0; k <= last - first && k < 100; ++k)
    ticks.push_back((first + k) * step + 0.0);  // + 0.0: no "-0"
  return ticks;
}

std::vector<double> log_ticks(double low, double high) {
  const int first = static_cast<int>(std::floor(std::log10(low))),
            last = static_cast<int>(std::ceil(std::log10(high)));
  std::vector<double> ticks;
  for (int decade = first; decade <= last; ++decade)
    for (const int lead : {1, 2, 5}) {
      if (lead != 1 && last - first > 3) continue;
      const double tick = lead * std::pow(10, decade);
      if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push_back(tick);
    }
  return ticks.size() >= 2 ? ticks : nice_ticks(low, high, 4);
}

std::vector<std::string> tick_labels(const std::vector<double>& ticks) {
  std::vector<std::string> labels;
  if (ticks.empty()) return labels;
  const bool spread = ticks.front() > 0 &&
                      ticks.back() >= 50 * ticks.front();  // a logarithmic axis: each tick in its own unit
  const Unit common = unit_for(std::max(std::abs(ticks.front()), std::abs(ticks.back())));
  for (int digits = 0; digits <= 12; ++digits) {
    labels.clear();
    bool exact = true;
    for (const double tick : ticks) {
      const Unit unit = spread ? unit_for(tick) : common;
      const double scaled = tick / unit.size;
      const double rounded = std::round(scaled * std::pow(10, digits)) / std::pow(10, digits);
      exact = exact && std::abs(rounded - scaled) <= 1e-9 * std::abs(scaled);
      labels.push_back(str(fixed(scaled, digits), tick == 0 ? "" : unit.suffix));
    }
    if (exact) break;
  }
  return labels;
}

std::vector<double> smoothed(const std::vector<double>& values, int64_t reach) {
  const auto n = static_cast<int64_t>(values.size());
  std::vector<double> sums = {0}, counts = {0};  // of the finite values before index i
  for (const double v : values) {
    sums.push_back(sums.back() + (std::isfinite(v) ? v : 0));
    counts.push_back(counts.back() + (std::isfinite(v) ? 1 : 0));
  }
  std::vector<double> out = values;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t r = std::min({reach, i, n - 1 - i});
    if (r > 0 && std::isfinite(values[i]))
      out[i] = (sums[i + r + 1] - sums[i - r]) / (counts[i + r + 1] - counts[i - r]);
  }
  return out;
}

// ---- SVG

namespace {

constexpr std::array<std::string_view, 8> kPalette = {"#3b82f6", "#ea7317", "#22a06b", "#e0445a",
                                                      "#9467d8", "#0d9fb3", "#b5830f", "#d6459c"};
constexpr std::string_view kInk = "#7a828e";  // contrast of 3.9 on white, 5.3 on black

// Bytes at the start of `text` that are one UTF-8 character, or 0. Overlong forms pass, which no viewer
// minds.
size_t utf8_length(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t size = lead < 0x80                   ? 1
                      : lead >= 0xC2 && lead < 0xE0 ? 2
                      : lead >= 0xE0 && lead < 0xF0 ? 3
                      : lead >= 0xF0 && lead < 0xF5 ? 4
                                                    : 0;
  if (size > text.size()) return 0;
  for (size_t i = 1; i < size; ++i)
    if ((text[i] & 0xC0) != 0x80) return 0;
  return size;
}

// Text for XML; bytes that are not UTF-8 become '?'.
std::string escaped(std::string_view raw) {
  const std::string text = printable(raw);
  std::string out;
  for (size_t i = 0, size; i < text.size(); i += std::max<size_t>(size, 1)) {
    size = utf8_length(std::string_view(text).substr(i));
    switch (size == 0 ? '?' : text[i]) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '?':
        out += '?';
        break;
      default:
        out += text.substr(i, size);
    }
  }
  return out;
}

int64_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

// Width of a text in an average font: enough to lay out a legend.
double text_width(std::string_view text, double size) {
  return 0.56 * size * static_cast<double>(characters(text));
}

struct Box {
  double left, top, right, bottom;
};

struct Pixel {
  double x, y;
};

// Keeps of each pixel column the first, lowest, highest and last point: the line looks the same.
std::vector<Pixel> thinned(const std::vector<Pixel>& line) {
  std::vector<Pixel> out;
  for (size_t i = 0; i < line.size();) {
    const double column = std::floor(line[i].x);
    size_t end = i, low = i, high = i;
    for (; end < line.size() && std::floor(line[end].x) == column; ++end) {
      if (line[end].y < line[low].y) low = end;
      if (line[end].y > line[high].y) high = end;
    }
    size_t previous = line.size();
    for (const size_t keep : {i, std::min(low, high), std::max(low, high), end - 1}) {
      if (keep != previous) out.push_back(line[keep]);
      previous = keep;
    }
    i = end;
  }
  return out;
}

std::string attributes_of_text(std::string_view anchor, int size) {
  return str(" text-anchor=\"", anchor, "\" font-size=\"", size, "\"");
}

std::string svg_line(double x1, double y1, double x2, double y2, std::string_view rest) {
  return str("<line x1=\"", fixed(x1, 1), "\" y1=\"", fixed(y1, 1), "\" x2=\"", fixed(x2, 1), "\" y2=\"",
             fixed(y2, 1), "\" ", rest, "/>\n");
}

std::string svg_text(double x, double y, const std::string& attributes, std::string_view text) {
  return str("<text x=\"", fixed(x, 1), "\" y=\"", fixed(y, 1), "\"", attributes, ">", escaped(text),
             "</text>\n");
}

std::string svg_series(const Chart& chart, const Series& s, const Axis& x, const Axis& y, const Box& box) {
  const std::string_view color = kPalette[static_cast<size_t>(s.color) % kPalette.size()];
  const bool faint = s.look == Series::Look::kFaintLine;
  std::string out, dots;
  std::vector<Pixel> line;
  const auto finish = [&] {
    if (line.size() > 1) {
      out += str("<polyline fill=\"none\" stroke=\"", color, "\" stroke-width=\"", faint ? "1" : "2",
                 "\" stroke-opacity=\"", faint ? "0.35" : "1",
                 "\" stroke-linejoin=\"round\" stroke-linecap=\"round\" points=\"");
      for (const Pixel& p : thinned(line)) out += str(fixed(p.x, 1), ",", fixed(p.y, 1), " ");
      out.back() = '"';
      out += "/>\n";
    }
    // A point alone has no line to be seen by.
    if (line.size() == 1 || s.look == Series::Look::kDottedLine)
      for (const Pixel& p : thinned(line))
        dots += str("<circle cx=\"", fixed(p.x, 1), "\" cy=\"", fixed(p.y, 1), "\" r=\"3.5\" fill=\"", color,
                    "\"/>\n");
    line.clear();
  };
  for (size_t i = 0; i < s.x.size(); ++i) {
    if (!drawable(chart, s, i)) {
      finish();
      continue;
    }
    line.push_back({box.left + x.place(s.x[i]) * (box.right - box.left),
                    box.bottom - y.place(s.y[i]) * (box.bottom - box.top)});
  }
  finish();
  return out + dots;
}

}  // namespace

std::string svg_chart(const Chart& chart, int width, int height) {
  const auto [x, y] = axes(chart);
  constexpr double kLegendSize = 13, kRow = 20;
  Box box{76, chart.title.empty() ? 20.0 : 48.0, width - 24.0, height - 56.0};

  std::string legend;
  double at = box.left, row = box.top + 8;
  for (const Series& s : chart.series) {
    if (s.name.empty()) continue;
    const double needed = 30 + text_width(s.name, kLegendSize) + 22;
    if (at > box.left && at + needed > box.right) {
      at = box.left;
      row += kRow;
    }
    const std::string_view color = kPalette[static_cast<size_t>(s.color) % kPalette.size()];
    legend += svg_line(at, row - 4, at + 22, row - 4,
                       str("stroke=\"", color, "\" stroke-width=\"2.5\" stroke-linecap=\"round\""));
    if (s.look == Series::Look::kDottedLine)
      legend += str("<circle cx=\"", fixed(at + 11, 1), "\" cy=\"", fixed(row - 4, 1), "\" r=\"3.5\" fill=\"",
                    color, "\"/>\n");
    legend += svg_text(at + 30, row, attributes_of_text("start", 13), s.name);
    at += needed;
  }
  if (!legend.empty()) box.top = row + 16;

  std::string out = str("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"", width, "\" height=\"", height,
                        "\" viewBox=\"0 0 ", width, " ", height,
                        "\" role=\"img\" font-family=\"system-ui, sans-serif\" fill=\"", kInk, "\">\n");
  out += str("<title>", escaped(chart.title.empty() ? chart.y_label : chart.title), "</title>\n");
  if (!chart.title.empty())
    out += svg_text(box.left, 28, attributes_of_text("start", 18) + " font-weight=\"600\"", chart.title);
  out += legend;

  const std::string grid = str("stroke=\"", kInk, "\" stroke-opacity=\"0.25\""),
                    axis = str("stroke=\"", kInk, "\"");
  const std::vector<double> y_ticks = ticks_of(y, static_cast<int>((box.bottom - box.top) / 55));
  const std::vector<std::string> y_names = tick_labels(y_ticks);
  for (size_t i = 0; i < y_ticks.size(); ++i) {
    const double level = box.bottom - y.place(y_ticks[i]) * (box.bottom - box.top);
    out += svg_line(box.left, level, box.right, level, grid);
    out += svg_text(box.left - 8, level + 4, attributes_of_text("end", 13), y_names[i]);
  }
  const std::vector<double> x_ticks = ticks_of(x, static_cast<int>((box.right - box.left) / 100));
  const std::vector<std::string> x_names = tick_labels(x_ticks);
  for (size_t i = 0; i < x_ticks.size(); ++i) {
    const double place = box.left + x.place(x_ticks[i]) * (box.right - box.left);
    out += svg_line(place, box.top, place, box.bottom, grid);
    out += svg_line(place, box.bottom, place, box.bottom + 5, axis);
    out += svg_text(place, box.bottom + 20, attributes_of_text("middle", 13), x_names[i]);
  }
  out += svg_line(box.left, box.bottom, box.right, box.bottom, axis);
  out += svg_line(box.left, box.top, box.left, box.bottom, axis);
  out += svg_text((box.left + box.right) / 2, height - 12.0, attributes_of_text("middle", 14), chart.x_label);
  const double middle = (box.top + box.bottom) / 2;
  out +=
      svg_text(20, middle,
               str(attributes_of_text("middle", 14), " transform=\"rotate(-90 20 ", fixed(middle, 1), ")\""),
               chart.y_label);
  for (const Series& s : chart.series) out += svg_series(chart, s, x, y, box);
  return out + "</svg>\n";
}

// ---- terminal

namespace {

// Cells of characters, each with dots: 2 x 4 of Braille, or one in ASCII. A cell belongs to the series that
// drew there last.
class Canvas {
 public:
  Canvas(int columns, int rows, bool utf8)
      : columns_(columns),
        rows_(rows),
        dots_x_(utf8 ? 2 : 1),
        dots_y_(utf8 ? 4 : 1),
        cells_(size_t(columns) * rows) {}

  int width() const { return columns_ * dots_x_; }
  int height() const { return rows_ * dots_y_; }

  // x from the left, y from the top, in dots.
  void dot(int x, int y, int owner) {
    if (x < 0 || y < 0 || x >= width() || y >= height()) return;
    Cell& cell = cells_[size_t(y / dots_y_) * columns_ + x / dots_x_];
    constexpr uint8_t kBraille[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    cell.dots |= kBraille[y % dots_y_][x % dots_x_];
    cell.owner = owner;
  }
  void line(int x0, int y0, int x1, int y1, int owner) {
    const int steps = std::max({std::abs(x1 - x0), std::abs(y1 - y0), 1});
    for (int i = 0; i <= steps; ++i) {
      const double t = static_cast<double>(i) / steps;
      dot(static_cast<int>(std::lround(x0 + t * (x1 - x0))),
          static_cast<int>(std::lround(y0 + t * (y1 - y0))), owner);
    }
  }

  struct Cell {
    uint8_t dots = 0;
    int owner = 0;
  };
  const Cell& cell(int column, int row) const { return cells_[size_t(row) * columns_ + column]; }

 private:
  int columns_, rows_, dots_x_, dots_y_;
  std::vector<Cell> cells_;
};

constexpr std::string_view kLetters = "*o+x#@%&";
constexpr std::array<std::string_view, 8> kAnsi = {"34", "33", "32", "31", "35", "36", "93", "95"};

std::string painted(const std::string& text, int color_index, bool color) {
  if (!color) return text;
  return str("\x1b[", kAnsi[static_cast<size_t>(color_index) % kAnsi.size()], "m", text, "\x1b[0m");
}

std::string glyph(const Canvas::Cell& cell, bool utf8) {
  if (cell.dots == 0) return " ";
  if (!utf8) return std::string(1, kLetters[static_cast<size_t>(cell.owner) % kLetters.size()]);
  // U+2800 + dots
  return {'\xE2', static_cast<char>(0xA0 | cell.dots >> 6), static_cast<char>(0x80 | (cell.dots & 0x3F))};
}

std::string padded_left(const std::string& text, size_t size) {
  return text.size() < size ? std::string(size - text.size(), ' ') + text : text;
}

}  // namespace

std::string text_chart(const Chart& chart, int columns, int rows, bool utf8, bool color) {
  const auto [x, y] = axes(chart);
  const int plot_rows = std::max(
      3, rows - (chart.title.empty() ? 4 : 5));  // below: axis, its labels, its name; above: legend, title
  const std::vector<double> y_ticks = ticks_of(y, std::max(1, plot_rows / 4));
  const std::vector<std::string> y_names = tick_labels(y_ticks);
  size_t margin = 1;
  for (const std::string& name : y_names) margin = std::max(margin, name.size());
  const int plot_columns = std::max(10, columns - static_cast<int>(margin) - 2);

  Canvas canvas(plot_columns, plot_rows, utf8);
  const auto dot_x = [&, &axis = x](double v) {
    return static_cast<int>(std::lround(axis.place(v) * (canvas.width() - 1)));
  };
  const auto dot_y = [&, &axis = y](double v) {
    return static_cast<int>(std::lround((1 - axis.place(v)) * (canvas.height() - 1)));
  };
  for (const Series& s : chart.series) {
    if (s.look == Series::Look::kFaintLine) continue;  // there is no faint dot
    for (size_t i = 0; i < s.x.size(); ++i) {
      if (!drawable(chart, s, i)) continue;
      const size_t from = i > 0 && drawable(chart, s, i - 1) ? i - 1 : i;
      canvas.line(dot_x(s.x[from]), dot_y(s.y[from]), dot_x(s.x[i]), dot_y(s.y[i]), s.color);
    }
  }

  std::string out;
  if (!chart.title.empty()) out += str(std::string(margin + 2, ' '), printable(chart.title), "\n");
  std::string indent_text(margin + 2, ' ');
  const std::string label = printable(chart.y_label);
  auto used = static_cast<int64_t>(margin + 2) + characters(label);
  std::string legend = indent_text + label;
  for (const Series& s : chart.series) {
    if (s.name.empty() || s.look == Series::Look::kFaintLine) continue;
    const std::string mark =
        utf8 ? "━━" : std::string(2, kLetters[static_cast<size_t>(s.color) % kLetters.size()]);
    const std::string name = printable(s.name);
    const int64_t needed = 5 + characters(name);
    if (used + needed > columns) {
      legend += "\n" + indent_text.substr(2);
      used = static_cast<int64_t>(margin);
    }
    legend += str("  ", painted(mark, s.color, color), " ", name);
    used += needed;
  }
  out += legend + "\n";
  for (int row = 0; row < plot_rows; ++row) {
    std::string name;
    for (size_t i = 0; i < y_ticks.size(); ++i)
      if (dot_y(y_ticks[i]) * plot_rows / canvas.height() == row) name = y_names[i];
    out +=
        str(padded_left(name, margin), " ", utf8 ? (name.empty() ? "│" : "┤") : (name.empty() ? "|" : "+"));
    for (int column = 0; column < plot_columns; ++column) {
      const Canvas::Cell& cell = canvas.cell(column, row);
      out += cell.dots ? painted(glyph(cell, utf8), cell.owner, color) : " ";
    }
    out.erase(out.find_last_not_of(' ') + 1);
    out += "\n";
  }

  const std::vector<double> x_ticks = ticks_of(x, std::max(1, plot_columns / 14));
  const std::vector<std::string> x_names = tick_labels(x_ticks);
  std::vector<bool> is_tick(plot_columns);
  std::string labels(margin + 2 + plot_columns, ' ');
  size_t free_from = 0;
  for (size_t i = 0; i < x_ticks.size(); ++i) {
    const int column = dot_x(x_ticks[i]) * plot_columns / canvas.width();
    is_tick[column] = true;
    const size_t center = margin + 2 + column, half = x_names[i].size() / 2;
    const size_t start = std::min(center > half ? center - half : 0,
                                  labels.size() - std::min(labels.size(), x_names[i].size()));
    if (start < free_from) continue;
    labels.replace(start, x_names[i].size(), x_names[i]);
    free_from = start + x_names[i].size() + 1;
  }
  out += std::string(margin + 1, ' ') + (utf8 ? "└" : "+");
  for (int column = 0; column < plot_columns; ++column)
    out += utf8 ? (is_tick[column] ? "┬" : "─") : (is_tick[column] ? "+" : "-");
  labels.erase(labels.find_last_not_of(' ') + 1);
  const size_t indent =
      margin + 2 +
      (plot_columns > static_cast<int>(chart.x_label.size()) ? (plot_columns - chart.x_label.size()) / 2 : 0);
  return str(out, "\n", labels, "\n", std::string(indent, ' '), printable(chart.x_label), "\n");
}

}  // namespace rookery::loop
