// terminal.cpp: colour, line breaking.
#include "trainer/cli/terminal.h"

#include <unistd.h>

#include <cstdlib>

namespace rookery::cli {

bool wants_color(ColorMode mode, int fd) {
  if (mode != ColorMode::kAuto) return mode == ColorMode::kAlways;
  const char* no_color = std::getenv("NO_COLOR");
  if (no_color && *no_color) return false;
  const char* term = std::getenv("TERM");
  return isatty(fd) && term && std::string_view(term) != "dumb";
}

std::string wrap(std::string_view text, size_t indent, size_t width) {
  std::string out;
  const std::string margin(indent, ' ');
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (line.starts_with(' ')) {
      out += margin + std::string(line) + "\n";
      continue;
    }
    while (indent + line.size() > width) {
      size_t cut = line.rfind(' ', width - indent);
      if (cut == std::string_view::npos) cut = line.find(' ');
      if (cut == std::string_view::npos) break;
      out += margin + std::string(line.substr(0, cut)) + "\n";
      line.remove_prefix(cut + 1);
    }
    out += (line.empty() ? "" : margin) + std::string(line) + "\n";
  }
  return out;
}

}  // namespace rookery::cli
