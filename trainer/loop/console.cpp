// console.cpp: see console.h. Writes without stdio, so a failed write is noticed at once and nothing is
// buffered.
#include "trainer/loop/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdlib>

#include "kernels/base/str.h"

namespace rookery::loop {
namespace {

bool locale_is_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (!value || !*value) continue;
    std::string lower = value;
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](unsigned char c) { return std::tolower(c); });
    return lower.find("utf-8") != std::string::npos || lower.find("utf8") != std::string::npos;
  }
  return false;
}

// Columns that the text takes: all that we print is one column per code point.
size_t width(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

}  // namespace

Console::Style Console::detect(int fd) {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  Style style;
  style.fd = fd;
  style.terminal = ::isatty(fd) == 1;
  style.color = style.terminal && !(no_color && *no_color) && term && std::string_view(term) != "dumb";
  style.utf8 = locale_is_utf8();
  return style;
}

int terminal_columns(int fd) {
  winsize size{};
  if (::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  if (const char* columns = std::getenv("COLUMNS"))
    if (const int value = std::atoi(columns); value > 0) return value;
  return 80;
}

std::string bar_cells(double share, int cells, bool utf8) {
  const double clamped = share >= 0 ? std::min(share, 1.0) : 0.0;
  const int eighths = static_cast<int>(std::lround(clamped * cells * 8));
  const int full = eighths / 8;
  std::string out;
  for (int i = 0; i < full; ++i) out += utf8 ? "█" : "#";
  int drawn = full;
  if (utf8 && eighths % 8 != 0) {
    constexpr const char* kPart[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    out += kPart[eighths % 8];
    ++drawn;
  }
  return out.append(cells - drawn, ' ');
}

void Console::put(std::string_view text) {
  if (style_.quiet) return;
  while (working_ && !text.empty()) {
    const ssize_t done = ::write(style_.fd, text.data(), text.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) working_ = false;
    if (done > 0) text.remove_prefix(done);
  }
}

// A line over the bar, padded to cover what is left of it, and the bar again below: works on any terminal,
// with no control sequence but the colour codes `before` and `after`.
void Console::show(std::string_view before, std::string_view text, std::string_view after) {
  if (bar_.empty()) {
    put(str(before, text, after, "\n"));
    return;
  }
  const size_t old = width(bar_), now = width(text);
  put(str("\r", before, text, after, std::string(old > now ? old - now : 0, ' '), "\n", bar_));
}

void Console::line(std::string_view text) { show("", text, ""); }

void Console::warning(std::string_view text) {
  show(style_.color ? "\x1b[33m" : "", text, style_.color ? "\x1b[0m" : "");
}

void Console::bar(double share, const std::string& text) {
  const int columns = terminal_columns(style_.fd) - 1;  // the last column would wrap on some terminals
  const std::string percent = str(std::min(100, static_cast<int>(share * 100)), "% ");
  const int cells = std::min(30, columns - static_cast<int>(width(percent) + width(text)) - 3);
  std::string now = percent;
  if (cells >= 4)
    now += str(style_.utf8 ? "▕" : "[", bar_cells(share, cells, style_.utf8), style_.utf8 ? "▏" : "]", " ");
  now += text;
  while (width(now) > static_cast<size_t>(std::max(columns, 1))) now.pop_back();
  const size_t old = width(bar_), fresh = width(now);
  put(str("\r", now, std::string(old > fresh ? old - fresh : 0, ' ')));
  bar_ = now;
}

void Console::end_bar() {
  if (!bar_.empty()) put("\n");
  bar_.clear();
}

}  // namespace rookery::loop
