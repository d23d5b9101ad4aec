// cli_test.cpp: the command line: parsing against a small table, the pages made from the real one, and exit
// codes of the real binary.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/support/program.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/help.h"
#include "trainer/cli/terminal.h"

namespace rookery::cli {
namespace {

using test::run_rookery;
using test::TempDir;

Command sample_table() {
  Command cook;
  cook.name = "cook";
  cook.summary = "cook something";
  cook.positional = "DISH...";
  cook.least_positional = 1;
  cook.most_positional = 2;
  cook.options = {{"minutes", "N", "how long", "10"},
                  {"heat", "X", "how hot"},
                  {"with", "THING", "add a thing", "", true, 'w'},
                  {"quiet", "", "say nothing"}};
  cook.run = [](const Arguments&) { return 0; };
  Command order = cook;
  order.name = "order";
  order.takes_overrides = true;
  order.most_positional = Command::kAny;
  Command kitchen;
  kitchen.name = "kitchen";
  kitchen.summary = "all of it";
  kitchen.children = {cook, order};
  Command root;
  root.name = "rookery";
  root.summary = "a table for tests";
  root.children = {kitchen};
  return root;
}

Arguments parse_cook(std::vector<std::string> words, const char* command = "cook") {
  static const Command root = sample_table();
  words.insert(words.begin(), {"kitchen", command});
  return parse(root, words).arguments;
}

// The message of the usage error that `body` throws.
std::string usage_message(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kUsage) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

void expect_usage(const std::function<void()>& body, const std::string& part) {
  std::string message = usage_message(body);
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(Parse, ReadsEveryForm) {
  Arguments a = parse_cook(
      {"--minutes", "20", "soup", "--heat=2.5", "-w", "salt", "--with=oil", "--quiet", "--", "--bread"});
  EXPECT_EQ(a.integer("minutes"), 20);
  EXPECT_EQ(a.number("heat"), 2.5);
  EXPECT_EQ(a.texts("with"), (std::vector<std::string>{"salt", "oil"}));
  EXPECT_TRUE(a.flag("quiet"));
  EXPECT_EQ(a.positional(), (std::vector<std::string>{"soup", "--bread"}));
  EXPECT_EQ(a.command(), "rookery kitchen cook");
}

TEST(Parse, DefaultsAndAbsence) {
  Arguments a = parse_cook({"soup"});
  EXPECT_EQ(a.integer("minutes"), 10);
  EXPECT_FALSE(a.given("minutes"));
  EXPECT_FALSE(a.maybe("heat").has_value());
  EXPECT_FALSE(a.flag("quiet"));
  expect_usage([&] { a.text("heat"); }, "option --heat X is required");
}

TEST(Parse, NegativeNumbersAreValuesAndArguments) {
  Arguments a = parse_cook({"--heat", "-3", "-5"});
  EXPECT_EQ(a.number("heat"), -3);
  EXPECT_EQ(a.positional(), std::vector<std::string>{"-5"});
}

TEST(Parse, RangesAndTypes) {
  Arguments a = parse_cook({"soup", "--minutes", "1.5k", "--heat", "1e400"});
  EXPECT_EQ(a.integer("minutes"), 1500);
  expect_usage([&] { a.integer("minutes", 0, 100); }, "--minutes: found 1500, expected at most 100");
  expect_usage([&] { a.number("heat"); }, "fits a double");
  expect_usage([&] { parse_cook({"soup", "--minutes", "ten"}).integer("minutes"); }, "expected an integer");
  expect_usage([&] { parse_cook({"soup", "--heat", "nan"}).number("heat"); }, "expected a number");
  expect_usage(
      [&] {
        parse_cook({"soup", "--heat", "hihg"}).one_of("heat", {"low", "high"});
      },
      "did you mean 'high'?");
}

TEST(Parse, MistakesAreUsageErrorsWithTheNearestName) {
  expect_usage(
      [] {
        parse_cook({"soup", "--minuts", "3"});
      },
      "unknown option --minuts (did you mean '--minutes'?)");
  expect_usage([] { parse_cook({"soup", "-x"}); }, "unknown option -x");
  expect_usage([] { parse_cook({"soup", "--minutes"}); }, "needs a value");
  expect_usage([] { parse_cook({"soup", "--minutes", "--quiet"}); }, "needs a value");
  expect_usage([] { parse_cook({"soup", "--minutes", "1", "--minutes", "2"}); }, "given twice");
  expect_usage([] { parse_cook({"soup", "--quiet=1"}); }, "takes no value");
  expect_usage([] { parse_cook({"soup", "--color", "alway"}); }, "did you mean 'always'?");
  expect_usage([] { parse_cook({}); }, "usage: rookery kitchen cook DISH...");
  expect_usage([] { parse_cook({"a", "b", "c"}); }, "unexpected argument 'c'");
  expect_usage([] { parse(sample_table(), {"kitchn"}); },
               "unknown command 'kitchn' (did you mean 'kitchen'?)");
  expect_usage([] { parse(sample_table(), {"kitchen"}); }, "a command is missing");
}

TEST(Parse, OverridesInEveryForm) {
  Arguments a =
      parse_cook({"a.yaml", "x.y=1", "--x.z", "-2", "--seed=3", "~x.w", "b.yaml", "--quiet"}, "order");
  EXPECT_EQ(a.overrides(), (std::vector<std::string>{"x.y=1", "x.z=-2", "seed=3", "~x.w"}));
  EXPECT_EQ(a.positional(), (std::vector<std::string>{"a.yaml", "b.yaml"}));
  EXPECT_TRUE(a.flag("quiet"));
}

TEST(Terminal, ControlCharactersNeverPass) {
  EXPECT_EQ(printable("a\033[2Jb\r\nc\td\x7f", Breaks::kKeep), "a\\x1b[2Jb\\x0d\nc\td\\x7f");
  EXPECT_EQ(printable("h\xc3\xa9\xc2\x9b", Breaks::kKeep), "h\xc3\xa9\\xc2\\x9b");  // U+009B steers, too
}

TEST(Terminal, Wraps) {
  EXPECT_EQ(wrap("one two three", 2, 10), "  one two\n  three\n");
  EXPECT_EQ(wrap("unbreakableword x", 0, 5), "unbreakableword\nx\n");
  EXPECT_EQ(wrap("  kept as it is and long", 0, 5), "  kept as it is and long\n");
}

// Visits every command of the program as the words that reach it.
void each_real_command(const std::function<void(const Command&, const std::vector<std::string>&)>& visit) {
  std::function<void(const Command&, std::vector<std::string>)> walk = [&](const Command& c,
                                                                           std::vector<std::string> words) {
    visit(c, words);
    for (const Command& child : c.children) {
      std::vector<std::string> below = words;
      below.push_back(child.name);
      walk(child, below);
    }
  };
  walk(rookery_command(), {});
}

TEST(Table, EveryCommandIsComplete) {
  each_real_command([](const Command& c, const std::vector<std::string>&) {
    SCOPED_TRACE(c.name);
    EXPECT_FALSE(c.summary.empty());
    EXPECT_NE(c.summary.back(), '.');
    EXPECT_EQ(c.children.empty(), bool(c.run)) << "a command has children or a body";
    EXPECT_FALSE(c.examples.empty()) << "no example";
    for (const Option& o : c.options) {
      EXPECT_FALSE(o.help.empty()) << o.name;
      EXPECT_FALSE(o.name.starts_with('-')) << o.name;
    }
  });
}

TEST(Table, HelpOfEveryCommandFitsOneScreenAndIsQuick) {
  each_real_command([](const Command&, const std::vector<std::string>& words) {
    std::vector<std::string> line = words;
    line.push_back("--help");
    auto start = std::chrono::steady_clock::now();
    test::ProgramResult r = run_rookery(line);
    auto took = std::chrono::steady_clock::now() - start;
    SCOPED_TRACE(testing::PrintToString(line));
    EXPECT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(r.err, "");
    EXPECT_NE(r.out.find("usage: rookery"), std::string::npos);
    std::istringstream lines(r.out);
    size_t count = 0;
    for (std::string text; std::getline(lines, text); ++count) EXPECT_LE(text.size(), 80u) << text;
    EXPECT_LE(count, 24u);
    // The promise is 50 ms on an idle machine; the bound leaves room for a loaded one.
    EXPECT_LT(std::chrono::duration<double>(took).count(), 1.0);
  });
}

TEST(Pages, EveryCommandAndOptionIsInEachPage) {
  const Command root = rookery_command();
  const std::string man = man_page(root), completion = bash_completion(root),
                    markdown = command_markdown(root);
  each_real_command([&](const Command& c, const std::vector<std::string>& words) {
    if (!c.run) return;
    std::string name = "rookery";
    for (const std::string& word : words) name += " " + word;
    std::string in_man;
    for (const char ch : name) in_man += ch == '-' ? std::string("\\-") : std::string(1, ch);
    EXPECT_NE(man.find(".SS " + in_man), std::string::npos) << name;
    EXPECT_NE(completion.find("'" + name + "'"), std::string::npos) << name;
    EXPECT_NE(markdown.find(name), std::string::npos) << name;
    for (const Option& o : c.options) {
      EXPECT_NE(completion.find("--" + o.name), std::string::npos) << o.name;
      EXPECT_NE(markdown.find("--" + o.name), std::string::npos) << o.name;
    }
  });
}

TEST(Pages, CompletionWorksInBash) {
  if (test::run_program({"bash", "-c", "true"}).code != 0) GTEST_SKIP() << "no bash on this machine";
  TempDir dir;
  auto script = test::put(dir, "completion", bash_completion(rookery_command()));
  auto complete = [&](const std::string& words, int at) {
    return test::run_program({"bash", "-c",
                              ". " + script.string() + "; COMP_WORDS=(" + words + "); COMP_CWORD=" +
                                  std::to_string(at) + "; _rookery; echo \"${COMPREPLY[*]}\""});
  };
  EXPECT_EQ(complete("rookery hel", 1).out, "help\n");
  EXPECT_EQ(complete("rookery help --comp", 2).out, "--completion\n");
}

TEST(Binary, VersionNamesThePartsOfTheProgram) {
  test::ProgramResult r = run_rookery({"--version"});
  EXPECT_EQ(r.code, 0);
  for (const char* part :
       {"rookery ", "revision: ", "compiler: ", "HDF5: ", "BLAS: ", "oneDNN: ", "CPU instruction sets: "}) {
    EXPECT_NE(r.out.find(part), std::string::npos) << part;
  }
}

TEST(Binary, UsageErrorsExit64WithOneLine) {
  for (const std::vector<std::string>& line : std::vector<std::vector<std::string>>{
           {}, {"hepl"}, {"help", "--mann"}, {"help", "nothing"}, {"--colour"}}) {
    test::ProgramResult r = run_rookery(line);
    EXPECT_EQ(r.code, 64) << testing::PrintToString(line);
    EXPECT_EQ(r.out, "");
    EXPECT_TRUE(r.err.starts_with("error[CLI-01]: ")) << r.err;
    EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
  }
}

TEST(Binary, DebugTellsThePlace) {
  EXPECT_EQ(run_rookery({"hepl"}).err.find("thrown at"), std::string::npos);
  EXPECT_NE(run_rookery({"hepl", "--debug"}).err.find("thrown at"), std::string::npos);
}

TEST(Binary, ColourOnlyWhereWanted) {
  EXPECT_EQ(run_rookery({"hepl"}).err.find('\033'), std::string::npos);
  EXPECT_NE(run_rookery({"help", "nothing", "--color", "always"}).err.find('\033'), std::string::npos);
  EXPECT_EQ(run_rookery({"help", "nothing", "--color=never"}).err.find('\033'), std::string::npos);
}

TEST(Program, OutOfMemoryIsNoBug) {
  Command burst;
  burst.name = "burst";
  burst.run = [](const Arguments&) -> int { throw std::bad_alloc(); };
  Command root;
  root.name = "rookery";
  root.children = {burst};
  testing::internal::CaptureStderr();
  EXPECT_EQ(run_program(root, {"burst"}), int(ExitCode::kUnavailable));
  EXPECT_NE(testing::internal::GetCapturedStderr().find("error[MEM-01]: out of memory"), std::string::npos);
}

TEST(Binary, FullStandardOutputIsAnError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full on this machine";
  test::ProgramResult r = run_rookery({"help", "--man"}, {}, "/dev/full");
  EXPECT_EQ(r.code, 74);
  EXPECT_NE(r.err.find("standard output"), std::string::npos);
}

TEST(Binary, ConfigurationErrorsExit78AndMissingFiles66) {
  TempDir dir;
  std::string broken = test::put(dir, "broken.yaml", "optim:\n  lr: fast\n  beta3: 1\n").string();
  test::ProgramResult r = run_rookery({"config", "check", broken});
  EXPECT_EQ(r.code, 78);
  EXPECT_EQ(r.out, "");
  EXPECT_TRUE(r.err.starts_with("error[CFG-01]: ")) << r.err;
  EXPECT_NE(r.err.find("broken.yaml:2:7: optim.lr: "), std::string::npos) << r.err;
  EXPECT_NE(r.err.find("broken.yaml:3:3: optim.beta3: "), std::string::npos) << r.err;
  EXPECT_EQ(run_rookery({"config", "check", "nowhere.yaml"}).code, 66);
  EXPECT_EQ(run_rookery({"config", "check", broken, "=3"}).code, 78) << "the file is wrong too";
}

TEST(Binary, NumbersDoNotDependOnTheLocale) {
  for (const char* locale : {"C", "de_DE.UTF-8", "nowhere"}) {
    test::ProgramResult r = run_rookery({"config", "schema"}, {{"LC_ALL", locale}});
    EXPECT_EQ(r.code, 0);
    EXPECT_NE(r.out.find("\"default\": 0.01,"), std::string::npos);
  }
}

TEST(Doctor, ChecksThisMachine) {
  test::ProgramResult r = run_rookery({"doctor", "--json"}, {{"ROOKERY_PROBE", "seen\xff"}});
  EXPECT_EQ(r.code, 0) << r.out;
  auto report = nlohmann::json::parse(r.out);
  EXPECT_EQ(report["ok"], true);
  std::string names;
  for (const auto& check : report["checks"]) names += check["check"].get<std::string>() + "\n";
  for (const char* name : {"rookery", "HDF5", "BLAS", "processor", "memory", "instruction sets",
                           "HDF5 round trip", "working folder", "file locks", "environment"}) {
    EXPECT_NE(names.find(std::string(name) + "\n"), std::string::npos) << name;
  }
  EXPECT_NE(r.out.find("ROOKERY_PROBE=seen\uFFFD: the variable is not known"), std::string::npos) << r.out;
  EXPECT_NE(r.out.find("keeps a second one out"), std::string::npos) << r.out;
  test::ProgramResult text = run_rookery({"doctor"});
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.out.find("ok    HDF5 round trip   wrote, synced and read back"), std::string::npos)
      << text.out;
}

TEST(Doctor, SaysWhatDoesNotWork) {
  test::ProgramResult r = run_rookery({"doctor"}, {{"ROOKERY_FAULT", "doctor.write:enospc"}});
  EXPECT_EQ(r.code, 69);
  EXPECT_NE(r.out.find("FAIL  HDF5 round trip"), std::string::npos) << r.out;
  EXPECT_NE(r.out.find("FAIL  working folder"), std::string::npos) << r.out;
  EXPECT_EQ(run_rookery({"doctor"}, {{"TMPDIR", "/nowhere"}}).code, 69);
}

TEST(Doctor, ListsTheFaultPoints) {
  test::ProgramResult r = run_rookery({"doctor", "--fault-points"});
  EXPECT_EQ(r.code, 0);
  EXPECT_NE(r.out.find("ckpt.manifest.write\t"), std::string::npos) << r.out;
}

// `ninja -C build docs` brings these files up to date.
TEST(Docs, CommittedPagesAreWhatTheProgramPrints) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> pages = {
      {"docs/configuration.md", {"config", "reference"}},
      {"docs/command-line.md", {"help", "--markdown"}},
      {"docs/exit-codes.md", {"help", "--exit-codes"}}};
  for (const auto& [file, line] : pages) {
    EXPECT_TRUE(test::slurp(file) == run_rookery(line).out) << file << " is out of date: ninja -C build docs";
  }
}

}  // namespace
}  // namespace rookery::cli
