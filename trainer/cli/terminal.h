// terminal.h: what is allowed to reach a terminal: colour only where it is wanted, control characters never.
#pragma once

#include <string>
#include <string_view>

#include "trainer/cli/command.h"

namespace rookery::cli {

// --color, then NO_COLOR (no-color.org: set and not empty), then whether `fd` is a terminal that knows
// colour.
bool wants_color(ColorMode mode, int fd);

// Text as it may be shown: control characters except newline and tab become \xNN, so a file name cannot steer
// the terminal.
std::string printable(std::string_view text);

// Breaks paragraphs at spaces into lines of at most `width` columns, each after `indent` spaces (the first
// one too). Lines that start with a space are kept as they are.
std::string wrap(std::string_view text, size_t indent, size_t width = 79);

}  // namespace rookery::cli
