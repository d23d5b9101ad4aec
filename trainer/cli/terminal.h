// terminal.h: what is allowed to reach a terminal: colour only where it is wanted, control characters never.
#pragma once

#include <string>
#include <string_view>

#include "trainer/cli/command.h"
#include "trainer/loop/human.h"

namespace rookery::cli {

// --color, then NO_COLOR (no-color.org: set and not empty), then whether `fd` is a terminal that knows
// colour.
bool wants_color(ColorMode mode, int fd);

using loop::Breaks;
using loop::printable;

// Breaks paragraphs at spaces into lines of at most `width` columns, each after `indent` spaces (the first
// one too). Lines that start with a space are kept as they are.
std::string wrap(std::string_view text, size_t indent, size_t width = 79);

}  // namespace rookery::cli
