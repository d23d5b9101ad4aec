// command.h: the command table. A Command says everything about a sub-command once; parsing, --help, the man
// page and the shell completion are made from it. Each sub-command: trainer/cli/<name>.cpp; their list:
// commands.cpp; the pages: help.cpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/error.h"

namespace rookery::cli {

enum class ColorMode { kAuto, kAlways, kNever };

// {"max-tokens", "N", "stop after N tokens", "256"} is --max-tokens N; without a value name it is a flag.
struct Option {
  std::string name;               // without the dashes
  std::string value;              // stands for the value in help: "N", "FILE"; empty: a flag
  std::string help;               // a phrase without a full stop
  std::string default_text = {};  // shown in help and used when the option is not given; empty: none
  bool repeated = false;          // may be given several times: Arguments::texts
  char letter = 0;                // short form: 'c' is -c
  std::string implied = {};       // the value of --name alone; then only --name=VALUE gives another
};

struct Example {
  std::string line;          // starts with "rookery"
  std::string meaning = {};  // may be empty
};

// What was typed for one command, checked against its options. The accessors throw Error(kUsage), naming the
// option.
class Arguments {
 public:
  // What is neither option nor override, in order.
  const std::vector<std::string>& positional() const { return positional_; }
  // Where the command takes overrides: `a.b=c`, `~a.b`, `--a.b c`, `--a.b=c` as "a.b=c" and "~a.b", in order.
  const std::vector<std::string>& overrides() const { return overrides_; }

  bool flag(std::string_view name) const;
  bool given(std::string_view name) const;        // on the command line, defaults not counted
  std::string text(std::string_view name) const;  // the last one given, else the default, else an error
  std::optional<std::string> maybe(
      std::string_view name) const;  // as text(), nothing where there is no value
  std::vector<std::string> texts(
      std::string_view name) const;  // every one given, else the default alone if there is one
  std::filesystem::path path(std::string_view name) const { return text(name); }
  // Bounds are inclusive. Integers take the units of the config (2048, 300M, 2Ti); numbers are finite.
  int64_t integer(std::string_view name, int64_t least = std::numeric_limits<int64_t>::min(),
                  int64_t most = std::numeric_limits<int64_t>::max()) const;
  double number(std::string_view name, double least = std::numeric_limits<double>::lowest(),
                double most = std::numeric_limits<double>::max()) const;
  // One of `names`, else an error with the nearest.
  std::string one_of(std::string_view name, const std::vector<std::string>& names) const;

  bool color(int fd) const;  // may text for this file descriptor hold colour codes?
  ColorMode color_mode() const { return color_mode_; }
  const std::string& command() const { return command_; }  // "rookery data prepare"

 private:
  friend class Parser;
  const Option& declared(std::string_view name) const;
  std::string command_;
  std::vector<Option> options_;
  std::map<std::string, std::vector<std::string>, std::less<>> values_;
  std::vector<std::string> positional_, overrides_;
  ColorMode color_mode_ = ColorMode::kAuto;
};

struct Command {
  std::string name;
  std::string summary;     // one line, no full stop
  std::string details;     // paragraphs; wrapped when printed
  std::string positional;  // "CONFIG... [key=value...]"; empty: none are taken
  size_t least_positional = 0;
  size_t most_positional = 0;  // kAny: no bound
  bool takes_overrides =
      false;  // arguments with '=', '~key' and --a.b are config overrides, not files or options
  std::vector<Option> options;  // the commonest first: the first screen of --help may end after five
  std::vector<Example> examples;
  std::vector<ExitCode> exit_codes;  // beside 0, 64, 70 and 74, which every command has
  std::vector<Command> children;     // a command has children or run
  std::function<int(const Arguments&)> run;

  static constexpr size_t kAny = std::numeric_limits<size_t>::max();
};

// Options that every command takes: --help, --color, --debug.
const std::vector<Option>& common_options();

// What a line asks for: the command (chain from the root), its arguments, or help on it.
struct Parsed {
  std::vector<const Command*> chain;
  Arguments arguments;
  bool help = false, version = false, debug = false;
};

// Throws Error(kUsage). `words` is argv without the program's name.
Parsed parse(const Command& root, const std::vector<std::string>& words);

// The process: parses, runs, prints an error once to stderr as `error[ID]: message`, returns the exit code.
int run_program(const Command& root, const std::vector<std::string>& words);

}  // namespace rookery::cli
