// plot.h: line charts, as SVG for documents and as text for a terminal. Used by `rookery plot`
// (trainer/cli/plot.cpp). Only pictures are made here; nothing is read or written.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rookery::loop {

struct Series {
  enum class Look { kLine, kFaintLine, kDottedLine };  // dotted: a line with a dot at each point
  std::string name;                                    // in the legend; empty: not there
  std::vector<double> x, y;  // of equal length, x ascending; a point that is not finite interrupts the line
  int color = 0;             // index into a fixed palette
  Look look = Look::kLine;
};

struct Chart {
  std::string title, x_label, y_label;
  bool log_x = false;  // points with x <= 0 are then left out
  std::vector<Series> series;
};

// A picture of width x height pixels with a transparent background and colours that read on white and on
// black. Uses the fonts of whoever shows it; text is escaped. Long series are thinned to the extremes of each
// pixel column.
std::string svg_chart(const Chart& chart, int width = 960, int height = 540);

// The same in `columns` x `rows` characters, lines ended by '\n': Braille dots, or ASCII where `utf8` is not
// set. With `color` each series has its ANSI colour, else in ASCII its own letter.
std::string text_chart(const Chart& chart, int columns, int rows, bool utf8, bool color);

// Round numbers (1, 2 or 5 times a power of ten) inside [low, high], about `count` of them, ascending.
std::vector<double> nice_ticks(double low, double high, int count);
// The same for a logarithmic axis, low > 0: powers of ten, with 2 and 5 times them where the range is short.
std::vector<double> log_ticks(double low, double high);
// Labels of ticks with the units k, M, G, T, in the fewest digits that are exact: {"0", "5k", "10k"}, {"2.5",
// "3.0"}. Ticks that span a factor of 50 or more have each their own unit: {"1", "100", "10k", "1M"}.
std::vector<std::string> tick_labels(const std::vector<double>& ticks);

// Centred moving average: each value becomes the mean of up to `reach` values on each side of it and itself,
// fewer at the ends so that the window stays symmetric and a slope is not shifted. Values that are not finite
// stay so and do not enter a mean. `reach` 0 changes nothing.
std::vector<double> smoothed(const std::vector<double>& values, int64_t reach);

}  // namespace rookery::loop
