// help.cpp: help screens, man page, completion and Markdown, all from the command table.
#include "trainer/cli/help.h"

#include <algorithm>
#include <functional>

#include "trainer/cli/terminal.h"
#include "trainer/cli/version.h"

namespace rookery::cli {

namespace {

constexpr size_t kScreenLines = 24;

struct CodeMeaning {
  ExitCode code;
  std::string_view meaning, restart;
};
constexpr CodeMeaning kCodes[] = {
    {ExitCode::kOk, "done", "nobody"},
    {ExitCode::kUsage, "bad command line", "the user, after mending the line"},
    {ExitCode::kData, "bad content of a data set, vocabulary or checkpoint", "the user"},
    {ExitCode::kNoInput, "an input file is missing or cannot be read", "the user"},
    {ExitCode::kUnavailable, "a device, service or permission is not there", "a launcher may try again"},
    {ExitCode::kInternal, "internal error: a bug", "nobody; please report it"},
    {ExitCode::kCannotCreate, "the output cannot be created", "the user, after mending the path"},
    {ExitCode::kIo, "read or write failed (disk full, permission)", "the user, after mending the disk"},
    {ExitCode::kStopped, "stopped on request (SIGTERM, SIGUSR1, time limit) with a valid checkpoint",
     "the scheduler: start it again"},
    {ExitCode::kPeerFailed, "another rank failed; the last checkpoint is valid", "the launcher"},
    {ExitCode::kHang, "a wait outlasted its limit", "the launcher"},
    {ExitCode::kConfig, "configuration error", "the user"},
    {ExitCode::kNumerics, "the loss is not finite, beyond what the configuration allows", "the user"},
    {ExitCode::kInterrupted, "interrupted by Ctrl-C, after saving", "the user"},
};

std::vector<ExitCode> exit_codes(const Command& command) {
  std::vector<ExitCode> codes = command.exit_codes;
  codes.insert(codes.end(), {ExitCode::kOk, ExitCode::kUsage, ExitCode::kInternal, ExitCode::kIo});
  std::sort(codes.begin(), codes.end());
  codes.erase(std::unique(codes.begin(), codes.end()), codes.end());
  return codes;
}

std::string path_name(const std::vector<const Command*>& chain) {
  std::string name;
  for (const Command* c : chain) name += (name.empty() ? "" : " ") + c->name;
  return name;
}

std::string option_head(const Option& o) {
  std::string head = o.letter ? str("-", o.letter, ", ") : "";
  head += "--" + o.name;
  if (!o.value.empty()) head += o.implied.empty() ? " " + o.value : str("[=", o.value, "]");
  return head;
}

std::string option_text(const Option& o) {
  std::string text = o.help;
  if (!o.default_text.empty()) text += " [" + o.default_text + "]";
  if (o.repeated) text += " (may be repeated)";
  return text;
}

// Two columns: `left` in its own, `right` wrapped beside it (below it where `left` is too long).
std::string row(const std::string& left, const std::string& right, size_t column) {
  std::string text = right.empty() ? "\n" : wrap(right, column);
  if (left.size() + 4 > column) return "  " + left + "\n" + text;
  return "  " + left + (right.empty() ? text : text.substr(left.size() + 2));
}

std::string option_rows(const std::vector<Option>& options, size_t count) {
  std::string text;
  for (size_t i = 0; i < std::min(count, options.size()); ++i)
    text += row(option_head(options[i]), option_text(options[i]), 26);
  return text;
}

std::string child_rows(const Command& command) {
  std::string text;
  for (const Command& child : command.children) text += row(child.name, child.summary, 16);
  return text;
}

std::string example_rows(const std::vector<Example>& examples, size_t count) {
  std::string text;
  for (size_t i = 0; i < std::min(count, examples.size()); ++i) {
    text += "  " + examples[i].line + "\n";
    if (!examples[i].meaning.empty()) text += "      " + examples[i].meaning + "\n";
  }
  return text;
}

std::string common_line(bool root) {
  return str("Everywhere: -h, --help; --color auto|always|never; --debug", root ? "; --version" : "", "\n");
}

size_t line_count(const std::string& text) { return size_t(std::count(text.begin(), text.end(), '\n')); }

std::string capitalized(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = char(text[0] - 'a' + 'A');
  return text;
}

// Calls visit(chain) for the root and everything below it, in the order of the table.
void each_command(const Command& root, const std::function<void(const std::vector<const Command*>&)>& visit) {
  std::vector<const Command*> chain = {&root};
  std::function<void()> walk = [&] {
    visit(chain);
    for (const Command& child : chain.back()->children) {
      chain.push_back(&child);
      walk();
      chain.pop_back();
    }
  };
  walk();
}

}  // namespace

std::string usage_line(const std::vector<const Command*>& chain) {
  const Command& c = *chain.back();
  std::string line = "usage: " + path_name(chain);
  if (!c.children.empty()) line += " COMMAND";
  if (!c.positional.empty()) line += " " + c.positional;
  return line + " [options]";
}

std::string help_screen(const std::vector<const Command*>& chain) {
  const Command& c = *chain.back();
  const bool root = chain.size() == 1;
  std::string full = help_full(chain);
  if (line_count(full) <= kScreenLines) return full;
  // Not all fits: the text of the table's head, as many options as there is room for, one example, and where
  // the rest is.
  auto screen = [&](size_t options, size_t examples) {
    std::string text = wrap(capitalized(c.summary) + ".", 0) + "\n" + wrap(usage_line(chain), 0);
    if (!c.children.empty()) text += "\nCommands:\n" + child_rows(c);
    if (!c.options.empty()) text += "\nOptions:\n" + option_rows(c.options, options);
    if (!c.examples.empty()) text += "\nExample:\n" + example_rows(c.examples, examples);
    return text + "\n" + common_line(root) + "All of it: rookery help" +
           path_name(chain).substr(chain.front()->name.size()) + "\n";
  };
  size_t options = c.options.size(), examples = c.examples.size();
  while (line_count(screen(options, examples)) > kScreenLines && examples > 1) --examples;
  while (line_count(screen(options, examples)) > kScreenLines && options > 1) --options;
  return screen(options, examples);
}

std::string help_full(const std::vector<const Command*>& chain) {
  const Command& c = *chain.back();
  std::string text = wrap(capitalized(c.summary) + ".", 0) + "\n" + wrap(usage_line(chain), 0);
  if (!c.details.empty()) text += "\n" + wrap(c.details, 0);
  if (!c.children.empty()) text += "\nCommands:\n" + child_rows(c);
  if (!c.options.empty()) text += "\nOptions:\n" + option_rows(c.options, c.options.size());
  if (!c.examples.empty())
    text += str("\nExample", c.examples.size() > 1 ? "s" : "", ":\n") +
            example_rows(c.examples, c.examples.size());
  text += "\n" + common_line(chain.size() == 1);
  if (c.run) {
    std::string codes;
    for (ExitCode code : exit_codes(c)) codes += str(codes.empty() ? "" : ", ", int(code));
    text += "Exit codes: " + codes + " (rookery help --exit-codes)\n";
  }
  return text;
}

std::string exit_code_markdown() {
  std::string text =
      "# Exit codes\n\n"
      "What the program returns, for scripts and schedulers. A process that a signal kills ends with 128 + "
      "the signal's number.\n\n"
      "| code | meaning | who starts it again? |\n|---|---|---|\n";
  for (const CodeMeaning& c : kCodes)
    text += str("| ", int(c.code), " | ", c.meaning, " | ", c.restart, " |\n");
  text +=
      "\nAn error is one message on standard error, `error[ID]: place: what was found, what was expected, "
      "how to mend it`; "
      "`--debug` adds\nthe place in the source. Results go to standard output, everything else to standard "
      "error.\n";
  return text;
}

std::string command_markdown(const Command& root) {
  auto cell = [](const std::string& text) {
    std::string out;
    for (char c : text) out += c == '|' ? std::string("\\|") : c == '<' ? "&lt;" : std::string(1, c);
    return out;
  };
  std::string text =
      "# Command line\n\nMade from the command table by `rookery help --markdown`. "
      "Configuration keys: [configuration.md](configuration.md); exit codes: "
      "[exit-codes.md](exit-codes.md).\n\n"
      "Every command also takes `-h`/`--help`, `--color auto|always|never` (`NO_COLOR` is honoured) and "
      "`--debug`; "
      "`rookery --version` tells\nthe versions of the program and of its libraries.\n";
  each_command(root, [&](const std::vector<const Command*>& chain) {
    const Command& c = *chain.back();
    if (chain.size() == 1) return;
    text += str("\n", chain.size() == 2 ? "## " : "### ", path_name(chain), "\n\n", capitalized(c.summary),
                ".\n");
    if (!c.run) return;
    text += str("\n```\n", usage_line(chain).substr(7), "\n```\n");
    if (!c.details.empty()) text += "\n" + c.details + "\n";
    if (!c.options.empty()) text += "\n| option | meaning |\n|---|---|\n";
    for (const Option& o : c.options)
      text += str("| `", cell(option_head(o)), "` | ", cell(option_text(o)), " |\n");
    if (c.examples.empty()) return;
    text += "\n```sh\n";
    for (const Example& e : c.examples)
      text += str(e.line, e.meaning.empty() ? "" : "   # " + e.meaning, "\n");
    text += "```\n";
  });
  return text;
}

std::string man_page(const Command& root) {
  // A leading dot or quote is a request in roff, a backslash an escape, and '-' may be set as a hyphen.
  auto roff = [](const std::string& text) {
    std::string out;
    bool line_start = true;
    for (char c : text) {
      if (line_start && (c == '.' || c == '\'')) out += "\\&";
      out += c == '\\' ? std::string("\\e") : c == '-' ? std::string("\\-") : std::string(1, c);
      line_start = c == '\n';
    }
    return out;
  };
  auto options = [&](const std::vector<Option>& list) {
    std::string text;
    for (const Option& o : list)
      text += str(".TP\n.B ", roff(option_head(o)), "\n", roff(option_text(o)), "\n");
    return text;
  };
  std::string text = str(".TH ROOKERY 1 \"\" \"rookery ", program_version(), "\" \"User Commands\"\n",
                         ".SH NAME\n", root.name, " \\- ", roff(root.summary), "\n.SH SYNOPSIS\n.B ",
                         root.name, "\n.I COMMAND\n[options]\n.SH COMMANDS\n");
  std::string codes;
  each_command(root, [&](const std::vector<const Command*>& chain) {
    const Command& c = *chain.back();
    if (!c.run) return;
    text += str(".SS ", roff(usage_line(chain).substr(7)), "\n", roff(capitalized(c.summary)), ".\n");
    if (!c.details.empty()) text += str(".PP\n", roff(c.details), "\n");
    text += options(c.options);
    for (const Example& e : c.examples) {
      text += str(".PP\n.EX\n", roff(e.line), "\n.EE\n", e.meaning.empty() ? "" : roff(e.meaning) + "\n");
    }
  });
  text += ".SH OPTIONS OF EVERY COMMAND\n" + options(common_options()) +
          ".TP\n.B \\-\\-version\nversions of the program and its libraries\n";
  text += ".SH EXIT STATUS\n";
  for (const CodeMeaning& c : kCodes)
    text += str(".TP\n.B ", int(c.code), "\n", roff(std::string(c.meaning)), "\n");
  text += ".SH ENVIRONMENT\n.TP\n.B NO_COLOR\nset and not empty: no colour unless \\-\\-color always\n";
  return text;
}

std::string bash_completion(const Command& root) {
  std::string text =
      str("# bash completion for rookery, made by 'rookery help --completion bash'\n_rookery() {\n",
          "  local word=${COMP_WORDS[COMP_CWORD]} line=rookery i words=\n",
          "  for ((i = 1; i < COMP_CWORD; i++)); do\n    case \"$line ${COMP_WORDS[i]}\" in\n");
  std::string known, cases;
  each_command(root, [&](const std::vector<const Command*>& chain) {
    const Command& c = *chain.back();
    std::string name = path_name(chain), words;
    if (chain.size() > 1) known += str(known.empty() ? "" : " | ", "'", name, "'");
    for (const Command& child : c.children) words += child.name + " ";
    for (const std::vector<Option>* list : {&c.options, &common_options()}) {
      for (const Option& o : *list) words += "--" + o.name + " ";
    }
    if (chain.size() == 1) words += "--version ";
    words.pop_back();
    cases += str("    '", name, "') words='", words, "' ;;\n");
  });
  return text + str("      ", known, ") line+=\" ${COMP_WORDS[i]}\" ;;\n    esac\n  done\n",
                    "  case $line in\n", cases, "  esac\n",
                    "  COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n}\n",
                    "complete -o default -o bashdefault -F _rookery rookery\n");
}

}  // namespace rookery::cli
