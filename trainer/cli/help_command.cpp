// help_command.cpp: `rookery help`: the full text of one command, or a page made of the whole table.
#include <iostream>

#include "trainer/cli/commands.h"
#include "trainer/cli/help.h"
#include "trainer/config/nearest.h"

namespace rookery::cli {

namespace {

std::vector<const Command*> find_chain(const Command& root, const std::vector<std::string>& names) {
  std::vector<const Command*> chain = {&root};
  for (const std::string& name : names) {
    const Command* next = nullptr;
    std::vector<std::string> known;
    for (const Command& child : chain.back()->children) {
      known.push_back(child.name);
      if (child.name == name) next = &child;
    }
    if (!next)
      fail(ExitCode::kUsage, "CLI-01", "no command '", name, "'", config::did_you_mean(name, known),
           "; see 'rookery --help'");
    chain.push_back(next);
  }
  return chain;
}

int run_help(const Arguments& arguments) {
  const Command root = rookery_command();
  if (arguments.flag("man")) {
    std::cout << man_page(root);
  } else if (arguments.flag("markdown")) {
    std::cout << command_markdown(root);
  } else if (arguments.flag("exit-codes")) {
    std::cout << exit_code_markdown();
  } else if (arguments.given("completion")) {
    arguments.one_of("completion", {"bash"});
    std::cout << bash_completion(root);
  } else {
    std::cout << help_full(find_chain(root, arguments.positional()));
  }
  return 0;
}

}  // namespace

Command help_command() {
  Command c;
  c.name = "help";
  c.summary = "everything about a command; man page and shell completion";
  c.positional = "[COMMAND...]";
  c.most_positional = Command::kAny;
  c.options = {
      {"exit-codes", "", "what the program returns, as Markdown"},
      {"markdown", "", "all commands as one Markdown page"},
      {"man", "", "all commands as a man page (roff)"},
      {"completion", "SHELL", "completion script for a shell: bash"},
  };
  c.examples = {{"rookery help train", "all options of a command"},
                {"rookery help --man > rookery.1", "the man page"},
                {"source <(rookery help --completion bash)", "completion in this shell"}};
  c.run = run_help;
  return c;
}

}  // namespace rookery::cli
