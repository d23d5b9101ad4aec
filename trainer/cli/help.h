// help.h: pages made from the command table.
#pragma once

#include <string>

#include "trainer/cli/command.h"

namespace rookery::cli {

// The first screen of --help: at most 24 lines of 80 columns. Where more is to say it ends with the command
// that says it.
std::string help_screen(const std::vector<const Command*>& chain);
std::string help_full(const std::vector<const Command*>& chain);  // everything, any length
std::string usage_line(
    const std::vector<const Command*>& chain);  // "usage: rookery data prepare FILE... [options]"
std::string man_page(const Command& root);      // roff, section 1
std::string bash_completion(const Command& root);
std::string command_markdown(const Command& root);  // docs/command-line.md
std::string exit_code_markdown();                   // docs/exit-codes.md

}  // namespace rookery::cli
