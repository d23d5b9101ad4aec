// command.cpp: from the words of a command line to the chosen Command and its checked Arguments, and from an
// Error to an exit code. Pages made from the same table: help.cpp.
#include "trainer/cli/command.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <new>

#include "trainer/cli/help.h"
#include "trainer/cli/terminal.h"
#include "trainer/cli/version.h"
#include "trainer/config/nearest.h"
#include "trainer/config/scalar.h"

namespace rookery::cli {

namespace {

std::string chain_name(const std::vector<const Command*>& chain) {
  std::string name;
  for (const Command* c : chain) name += (name.empty() ? "" : " ") + c->name;
  return name;
}

// The message of a usage error ends with where to read more.
template <class... Args>
[[noreturn]] void usage_error(const std::string& command, const Args&... args) {
  fail(ExitCode::kUsage, "CLI-01", args..., "; see '", command, " --help'");
}

}  // namespace

const std::vector<Option>& common_options() {
  static const std::vector<Option> options = {
      {"help", "", "show help for the command", "", false, 'h'},
      {"color", "WHEN", "colour on a terminal: auto, always or never", "auto", false, 0},
      {"debug", "", "with an error, tell the place in the source", "", false, 0},
  };
  return options;
}

const Option& Arguments::declared(std::string_view name) const {
  for (const Option& o : options_) {
    if (o.name == name) return o;
  }
  RK_CHECK(false, "[", command_, "] reads --", name, ", which its table does not declare");
  return options_.front();
}

bool Arguments::given(std::string_view name) const {
  declared(name);
  return values_.find(name) != values_.end();
}

bool Arguments::flag(std::string_view name) const { return given(name); }

std::vector<std::string> Arguments::texts(std::string_view name) const {
  const Option& option = declared(name);
  if (auto it = values_.find(name); it != values_.end()) return it->second;
  if (!option.default_text.empty()) return {option.default_text};
  return {};
}

std::optional<std::string> Arguments::maybe(std::string_view name) const {
  std::vector<std::string> all = texts(name);
  if (all.empty()) return std::nullopt;
  return all.back();
}

std::string Arguments::text(std::string_view name) const {
  std::optional<std::string> value = maybe(name);
  if (!value)
    usage_error(command_, "option --", name, " ", declared(name).value,
                " is required: ", declared(name).help);
  return *value;
}

int64_t Arguments::integer(std::string_view name, int64_t least, int64_t most) const {
  std::string typed = text(name), why;
  std::optional<int64_t> value = config::parse_integer(typed, config::Unit::kPlain, why);
  if (!value) usage_error(command_, "--", name, ": found '", typed, "', ", why);
  if (*value < least) usage_error(command_, "--", name, ": found ", *value, ", expected at least ", least);
  if (*value > most) usage_error(command_, "--", name, ": found ", *value, ", expected at most ", most);
  return *value;
}

double Arguments::number(std::string_view name, double least, double most) const {
  std::string typed = text(name), why;
  std::optional<double> value = config::parse_number(typed, config::Unit::kPlain, why);
  if (!value) usage_error(command_, "--", name, ": found '", typed, "', ", why);
  if (*value < least) usage_error(command_, "--", name, ": found ", typed, ", expected at least ", least);
  if (*value > most) usage_error(command_, "--", name, ": found ", typed, ", expected at most ", most);
  return *value;
}

std::string Arguments::one_of(std::string_view name, const std::vector<std::string>& names) const {
  std::string typed = text(name);
  if (std::find(names.begin(), names.end(), typed) != names.end()) return typed;
  std::string list;
  for (const std::string& n : names) list += (list.empty() ? "" : ", ") + n;
  usage_error(command_, "--", name, ": found '", typed, "', expected one of ", list,
              config::did_you_mean(typed, names));
}

bool Arguments::color(int fd) const { return wants_color(color_mode_, fd); }

// Takes the words one by one. Sub-commands come first; options, overrides and positional arguments may mix.
class Parser {
 public:
  Parser(const Command& root, const std::vector<std::string>& words) : words_(words) {
    parsed_.chain = {&root};
  }

  Parsed run() {
    bool only_positional = false;  // after "--"
    while (next_ < words_.size()) {
      const std::string& word = words_[next_++];
      if (!only_positional && word == "--") {
        only_positional = true;
      } else if (!only_positional && word.size() > 2 && word.starts_with("--")) {
        long_option(word.substr(2));
      } else if (!only_positional && word.size() > 1 && word[0] == '-' &&
                 !std::isdigit(static_cast<unsigned char>(word[1]))) {
        short_option(word);
      } else {
        plain_word(word, only_positional);
      }
    }
    finish();
    return std::move(parsed_);
  }

 private:
  const Command& command() const { return *parsed_.chain.back(); }
  std::string name() const { return chain_name(parsed_.chain); }

  const Option* find(std::string_view name, char letter) const {
    for (const std::vector<Option>* list : {&command().options, &common_options()}) {
      for (const Option& o : *list) {
        if (letter ? o.letter == letter : o.name == name) return &o;
      }
    }
    return nullptr;
  }

  void long_option(const std::string& typed) {
    size_t equal = typed.find('=');
    std::string key = typed.substr(0, equal);
    if (parsed_.chain.size() == 1 && key == "version") {
      parsed_.version = true;
      return;
    }
    std::optional<std::string> value;
    if (equal != std::string::npos) value = typed.substr(equal + 1);
    if (const Option* option = find(key, 0)) return take(*option, "--" + key, value);
    // A dotted key, or any key of a config with its value attached, is an override written as an option.
    if (command().takes_overrides && (key.find('.') != std::string::npos || value)) {
      parsed_.arguments.overrides_.push_back(key + "=" + (value ? *value : value_of("--" + key, "VALUE")));
      return;
    }
    std::vector<std::string> known;
    for (const std::vector<Option>* list : {&command().options, &common_options()}) {
      for (const Option& o : *list) known.push_back("--" + o.name);
    }
    usage_error(name(), "unknown option --", key, config::did_you_mean("--" + key, known));
  }

  void short_option(const std::string& word) {
    const Option* option = find("", word[1]);
    if (!option) usage_error(name(), "unknown option ", word);
    std::string dashed = word.substr(0, 2);
    if (word.size() == 2) return take(*option, dashed, std::nullopt);
    if (option->value.empty())
      usage_error(name(), "option ", dashed, " takes no value, found '", word.substr(2), "'");
    take(*option, dashed, word.substr(2));
  }

  // The word after `dashed`. What looks like another option is not taken for a value; "--name=--value" can
  // still say it.
  std::string value_of(const std::string& dashed, const std::string& value_name) {
    if (next_ >= words_.size() || words_[next_].starts_with("--")) {
      usage_error(name(), "option ", dashed, " needs a value: ", dashed, " ", value_name);
    }
    return words_[next_++];
  }

  void take(const Option& option, const std::string& dashed, const std::optional<std::string>& attached) {
    if (option.value.empty()) {
      if (attached) usage_error(name(), "option ", dashed, " takes no value, found '", *attached, "'");
      if (option.name == "help")
        parsed_.help = true;
      else if (option.name == "debug")
        parsed_.debug = true;
      else
        parsed_.arguments.values_[option.name];
      return;
    }
    std::string value = attached                 ? *attached
                        : option.implied.empty() ? value_of(dashed, option.value)
                                                 : option.implied;
    if (option.name == "color") return set_color(value);
    std::vector<std::string>& values = parsed_.arguments.values_[option.name];
    if (!option.repeated && !values.empty()) usage_error(name(), "option ", dashed, " is given twice");
    values.push_back(value);
  }

  void set_color(const std::string& when) {
    static const std::vector<std::string> names = {"auto", "always", "never"};
    auto it = std::find(names.begin(), names.end(), when);
    if (it == names.end()) {
      usage_error(name(), "--color: found '", when, "', expected auto, always or never",
                  config::did_you_mean(when, names));
    }
    parsed_.arguments.color_mode_ = ColorMode(it - names.begin());
  }

  void plain_word(const std::string& word, bool only_positional) {
    if (!command().children.empty()) return sub_command(word);
    if (command().takes_overrides && !only_positional &&
        (word.find('=') != std::string::npos || (word.starts_with('~') && !word.starts_with("~/")))) {
      parsed_.arguments.overrides_.push_back(word);
    } else {
      parsed_.arguments.positional_.push_back(word);
    }
  }

  void sub_command(const std::string& word) {
    std::vector<std::string> known;
    for (const Command& child : command().children) {
      if (child.name == word) {
        parsed_.chain.push_back(&child);
        return;
      }
      known.push_back(child.name);
    }
    usage_error(name(), "unknown command '", word, "'", config::did_you_mean(word, known));
  }

  void finish() {
    Arguments& arguments = parsed_.arguments;
    arguments.command_ = name();
    arguments.options_ = command().options;
    if (parsed_.help || parsed_.version) return;
    if (!command().children.empty()) usage_error(name(), "a command is missing: ", usage_line(parsed_.chain));
    size_t count = arguments.positional_.size();
    if (count < command().least_positional)
      usage_error(name(), "an argument is missing: ", usage_line(parsed_.chain));
    if (count > command().most_positional) {
      usage_error(name(), "unexpected argument '", arguments.positional_[command().most_positional], "'");
    }
  }

  const std::vector<std::string>& words_;
  size_t next_ = 0;
  Parsed parsed_;
};

Parsed parse(const Command& root, const std::vector<std::string>& words) { return Parser(root, words).run(); }

namespace {

int run_parsed(const Parsed& parsed) {
  if (parsed.version) {
    std::cout << version_text();
    return 0;
  }
  if (parsed.help) {
    std::cout << help_screen(parsed.chain);
    return 0;
  }
  RK_CHECK(parsed.chain.back()->run, "[", parsed.arguments.command(), "] has neither children nor a body");
  return parsed.chain.back()->run(parsed.arguments);
}

void print_error(std::string_view id, std::string_view message, ColorMode color,
                 const std::source_location* where) {
  const bool colored = wants_color(color, STDERR_FILENO);
  std::string line =
      str(colored ? "\033[1;31m" : "", "error", id.empty() ? "" : "[", id, id.empty() ? "" : "]",
          colored ? "\033[0m" : "", ": ", printable(message, Breaks::kKeep), "\n");
  if (where)
    line += str("  thrown at ", where->file_name(), ":", where->line(), " in ", where->function_name(), "\n");
  std::cout.flush();
  std::fputs(line.c_str(), stderr);
}

}  // namespace

int run_program(const Command& root, const std::vector<std::string>& words) {
  // Known before the line is parsed, since parsing itself may fail.
  const bool debug = std::find(words.begin(), words.end(), "--debug") != words.end();
  ColorMode color = ColorMode::kAuto;
  try {
    Parsed parsed = parse(root, words);
    color = parsed.arguments.color_mode();
    int code = run_parsed(parsed);
    if (!std::cout.flush() || std::fflush(stdout) != 0)
      fail(ExitCode::kIo, "CLI-02", "standard output cannot be written");
    return code;
  } catch (const Error& e) {
    print_error(e.id(), e.what(), color, debug || e.code() == ExitCode::kInternal ? &e.where() : nullptr);
    return int(e.code());
  } catch (const std::bad_alloc&) {
    print_error("MEM-01", "out of memory. Use a smaller batch, model or input, or a machine with more", color,
                nullptr);
    return int(ExitCode::kUnavailable);
  } catch (const std::filesystem::filesystem_error& e) {
    print_error("IO-13",
                str(e.path1().string(), ": cannot be looked into: ", e.code().message(),
                    "; mend it by giving access to it, or naming another"),
                color, nullptr);
    return int(ExitCode::kNoInput);
  } catch (const std::exception& e) {
    print_error("", str("internal error: ", e.what()), color, nullptr);
  }
  return int(ExitCode::kInternal);
}

}  // namespace rookery::cli
