// console.h: what a person sees while a run goes on: a bar that redraws itself on a terminal, plain lines
// anywhere else. Fed by metrics.cpp. Everything goes to one file descriptor, by default standard error.
#pragma once

#include <string>
#include <string_view>

namespace rookery::loop {

class Console {
 public:
  struct Style {
    int fd = 2;
    bool terminal = false;  // a bar, redrawn in place, instead of a line per log step
    bool color = false;
    bool utf8 = false;
    bool quiet = false;  // shows nothing: another rank does
  };
  // From isatty(fd), NO_COLOR and TERM, and the locale's character set (LC_ALL, LC_CTYPE, LANG).
  static Style detect(int fd = 2);

  explicit Console(Style style) : style_(style) {}
  ~Console() { end_bar(); }
  Console(const Console&) = delete;

  // A whole line; a bar on display moves below it.
  void line(std::string_view text);
  // The same in the colour of warnings.
  void warning(std::string_view text);
  // Draws or redraws the bar: share done in [0, 1], then `text`. Only where style().terminal.
  void bar(double share, const std::string& text);
  // Leaves the bar as it is and goes to the next line.
  void end_bar();

  const Style& style() const { return style_; }
  // False once a write has failed (terminal gone, pipe closed): from then on nothing is written.
  bool working() const { return working_; }

 private:
  void put(std::string_view text);
  void show(std::string_view before, std::string_view text, std::string_view after);
  Style style_;
  std::string bar_;  // on display now; empty: none
  bool working_ = true;
};

// Columns of the terminal behind `fd`, else of COLUMNS, else 80.
int terminal_columns(int fd);

// The bar alone: {0.5, 8 cells} is "████    ", or "####    " in ASCII.
std::string bar_cells(double share, int cells, bool utf8);

}  // namespace rookery::loop
