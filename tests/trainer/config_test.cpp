// config_test.cpp: scalars, YAML trees, reading into fields, writers, overrides, RunConfig; hostile text
// never crashes the reader.
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <random>

#include "kernels/base/io.h"
#include "tests/support/program.h"
#include "trainer/config/nearest.h"
#include "trainer/config/run_config.h"

namespace rookery::config {
namespace {

using test::put;
using test::TempDir;

// A small architecture of the tests' own, so that they do not depend on the models that the program has.
struct ToyConfig : ModelConfig {
  int64_t num_layers = 2, hidden_size = 64;
  bool tied = false;
  std::vector<int64_t> widths = {1, 2};
  std::string arch() const override { return "toy"; }
  int64_t num_blocks() const override { return num_layers; }
  void fields(Visitor& v) override {
    v("num_layers", num_layers, "blocks").between(1, 1000);
    v("hidden_size", hidden_size, "width (C)").between(1, 1e6).required();
    v("tied", tied, "share embedding and head");
    v("widths", widths, "of the layers").positive();
  }
  void check(std::vector<Finding>& findings) const override {
    if (hidden_size % 64)
      findings.push_back({"model.hidden_size", str("hidden_size ", hidden_size, " is not divisible by 64")});
  }
};
struct OtherConfig : ModelConfig {
  double depth = 1;
  std::string arch() const override { return "other"; }
  void fields(Visitor& v) override { v("depth", depth, "how deep"); }
};
struct PretrainConfig : RecipeConfig {
  std::string kind() const override { return "pretrain"; }
};

const bool kRegistered = [] {
  register_model_config("toy", [] { return std::make_unique<ToyConfig>(); });
  register_model_config("other", [] { return std::make_unique<OtherConfig>(); });
  register_recipe_config("pretrain", [] { return std::make_unique<PretrainConfig>(); });
  return true;
}();

const char* const kGood = R"(model:
  arch: toy
  num_layers: 6
  hidden_size: 256
data:
  sources:
    - path: data/en.h5
      weight: 2
    - {path: data/de.h5}
  tokenizer: vocab.txt
  seq_len: 128
  val:
    - {name: faq, path: data/faq.h5}
recipe:
  micro_batch_size: 4
  global_batch_size: 16
  max_tokens: 1.5M
optim:
  lr: 6e-4
  lr_final: 6e-5
checkpoint: {every_minutes: 2h}
)";

LoadedRun load_text(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  TempDir dir;
  return load_run({put(dir, "run.yaml", yaml)}, overrides);
}

// The message of the Error that loading throws, with its exit code checked.
std::string error_of(const std::function<void()>& body, ExitCode code = ExitCode::kConfig) {
  try {
    body();
  } catch (const Error& e) {
    EXPECT_EQ(int(e.code()), int(code)) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}
std::string text_error(const std::string& yaml, const std::vector<std::string>& overrides = {},
                       ExitCode code = ExitCode::kConfig) {
  return error_of([&] { load_text(yaml, overrides); }, code);
}

void expect_has(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text << "\nlacks: " << part;
}

// `yaml` with the first occurrence of one text replaced.
std::string with(std::string yaml, const std::string& from, const std::string& to) {
  size_t at = yaml.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return yaml.replace(at, from.size(), to);
}

int64_t integer(const std::string& text, Unit unit = Unit::kPlain) {
  std::string why;
  auto value = parse_integer(text, unit, why);
  EXPECT_TRUE(value) << text << ": " << why;
  return value.value_or(-999);
}
bool refused_integer(const std::string& text, Unit unit = Unit::kPlain) {
  std::string why;
  return !parse_integer(text, unit, why) && why.starts_with("expected");
}
double number(const std::string& text, Unit unit = Unit::kPlain) {
  std::string why;
  auto value = parse_number(text, unit, why);
  EXPECT_TRUE(value) << text << ": " << why;
  return value.value_or(-999);
}
bool refused_number(const std::string& text, Unit unit = Unit::kPlain) {
  std::string why;
  return !parse_number(text, unit, why) && why.starts_with("expected");
}

TEST(Scalar, IntegersAreExact) {
  EXPECT_EQ(integer("2048"), 2048);
  EXPECT_EQ(integer("-7"), -7);
  EXPECT_EQ(integer("+7"), 7);
  EXPECT_EQ(integer("1_000_000"), 1000000);
  EXPECT_EQ(integer("0x10"), 16);
  EXPECT_EQ(integer("1e6"), 1000000);
  EXPECT_EQ(integer("-0"), 0);
  EXPECT_EQ(integer("300M"), 300000000);
  EXPECT_EQ(integer("1.5B"), 1500000000);
  EXPECT_EQ(integer("2Ti"), int64_t(2) << 40);
  EXPECT_EQ(integer("1.5Ki"), 1536);
  EXPECT_EQ(integer("1.50000000000000000000k"), 1500);
  EXPECT_EQ(integer("0.001k"), 1);
  EXPECT_EQ(integer("9223372036854775807"), std::numeric_limits<int64_t>::max());
  for (const char* bad : {"",        "-",     "x",   "0.5",  "1.5",           "9223372036854775808",
                          "1e19",    "1e400", "1e",  "1e5x", "1__0",          "_1",
                          "1_",      "0x",    "0xg", "0x-1", "300 M",         "300m",
                          "1.0001k", "nan",   "inf", "--1",  "1e99999999999", "8388608Ti",
                          "10KiB",   "1.2.3"}) {
    EXPECT_TRUE(refused_integer(bad)) << bad;
  }
}

TEST(Scalar, NumbersAreFinite) {
  EXPECT_EQ(number("6e-4"), 6e-4);
  EXPECT_EQ(number("+.5"), 0.5);
  EXPECT_EQ(number("1_000.5"), 1000.5);
  EXPECT_EQ(number("1e308"), 1e308);
  EXPECT_EQ(number("1e-400"), 0);
  EXPECT_FALSE(std::signbit(number("-0")));
  for (const char* bad :
       {"", "-", ".", "x", "1e400", "-1e400", "nan", "inf", "-inf", "0x10", "1,5", "1 ", " 1", "1e", "1M"}) {
    EXPECT_TRUE(refused_number(bad)) << bad;
  }
}

TEST(Scalar, SizesAndDurations) {
  EXPECT_EQ(integer("64MiB", Unit::kBytes), 64 << 20);
  EXPECT_EQ(integer("5GB", Unit::kBytes), 5000000000);
  EXPECT_EQ(integer("4096", Unit::kBytes), 4096);
  EXPECT_EQ(integer("4096B", Unit::kBytes), 4096);
  EXPECT_EQ(integer("90", Unit::kSeconds), 90);
  EXPECT_EQ(integer("1h30m", Unit::kSeconds), 5400);
  EXPECT_EQ(integer("2h", Unit::kMinutes), 120);
  EXPECT_EQ(number("30", Unit::kMinutes), 30);
  EXPECT_EQ(number("90s", Unit::kMinutes), 1.5);
  EXPECT_EQ(number("1d", Unit::kMinutes), 1440);
  EXPECT_TRUE(refused_integer("5G", Unit::kBytes));
  EXPECT_TRUE(refused_integer("90s", Unit::kMinutes));
  for (const char* bad : {"", "h", "1h2h", "1m1h", "1h30", "-5", "5x", "1e400", "inf"}) {
    EXPECT_TRUE(refused_number(bad, Unit::kSeconds)) << bad;
    EXPECT_TRUE(refused_integer(bad, Unit::kSeconds)) << bad;
  }
}

TEST(Nearest, FindsSlipsOnly) {
  const std::vector<std::string> keys = {"lr", "lr_final", "warmup_steps", "beta1"};
  EXPECT_EQ(nearest("warmup_step", keys), "warmup_steps");
  EXPECT_EQ(nearest("wramup_steps", keys), "warmup_steps");
  EXPECT_EQ(nearest("learning", keys), "");
  EXPECT_EQ(nearest("", keys), "");
  EXPECT_EQ(edit_distance("abcd", "acbd"), 1);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("", "abc"), 3);
}

TEST(Read, EveryTypeOfField) {
  LoadedRun run = load_text(kGood);
  const RunConfig& c = run.config;
  auto& toy = dynamic_cast<ToyConfig&>(*c.model);
  EXPECT_EQ(toy.num_layers, 6);
  EXPECT_EQ(toy.hidden_size, 256);
  EXPECT_EQ(toy.widths, (std::vector<int64_t>{1, 2}));
  ASSERT_EQ(c.data.sources.size(), 2u);
  EXPECT_EQ(c.data.sources[0].path, "data/en.h5");
  EXPECT_EQ(c.data.sources[0].weight, 2);
  EXPECT_EQ(c.data.sources[1].weight, 1);
  EXPECT_EQ(c.data.val[0].name, "faq");
  EXPECT_EQ(c.recipe->kind(), "pretrain");
  EXPECT_EQ(c.recipe->max_tokens, 1500000);
  EXPECT_FALSE(c.recipe->max_steps);
  EXPECT_EQ(c.optim.lr, 6e-4);
  EXPECT_EQ(c.checkpoint.every_minutes, 120);
  EXPECT_EQ(c.name, "run");
  EXPECT_EQ(c.run_dir, "runs/run");
  EXPECT_EQ(c.tokens_per_step(), 16 * 128);
  EXPECT_EQ(c.grad_accum_steps(1), 4);
  EXPECT_EQ(c.grad_accum_steps(2), 2);
  EXPECT_EQ(c.total_steps(), 1500000 / 2048);
}

TEST(Read, FivePlantedMistakesInOneRun) {
  const std::string yaml =
      "model:\n"                     // 1
      "  arch: toy\n"                // 2
      "  num_layer: 6\n"             // 3  unknown key
      "  hidden_size: 256\n"         // 4
      "data:\n"                      // 5
      "  sources: [{path: a.h5}]\n"  // 6
      "  tokenizer: v.txt\n"         // 7
      "  sampling: shufled\n"        // 8  not one of the names
      "recipe:\n"                    // 9
      "  max_steps: ten\n"           // 10 wrong type
      "optim:\n"                     // 11
      "  lr: -1\n"                   // 12 out of bounds
      "  beta1: 0.9\n"               // 13
      "  beta1: 0.95\n"              // 14 duplicate
      "log: {tensorboard: yes}\n";   // 15 not a boolean (a sixth)
  std::string message = text_error(yaml);
  expect_has(message, "6 problems");
  expect_has(message,
             "run.yaml:3:3: model.num_layer: unknown key (did you mean 'model.num_layers'?)\n  3 |   "
             "num_layer: 6\n    |   ^");
  expect_has(message,
             "run.yaml:8:13: data.sampling: expected one of shuffled, sequential, magic_prime, found "
             "'shufled' (did you mean 'shuffled'?)");
  expect_has(message, "run.yaml:10:14: recipe.max_steps: expected an integer");
  expect_has(message,
             "run.yaml:12:7: optim.lr: expected more than 0, found '-1'\n  12 |   lr: -1\n     |       ^");
  expect_has(message, "run.yaml:14:3: beta1: duplicate key, first given in line 13");
  expect_has(message, "run.yaml:15:20: log.tensorboard: expected true or false; write true, found 'yes'");
}

TEST(Read, CaretCountsCharactersNotBytes) {
  std::string message = text_error(
      with(kGood, "- {path: data/de.h5}", "- {name: \"d\xc3\xa4nisch\", wieght: 3, path: data/de.h5}"));
  expect_has(message,
             "run.yaml:9:25: data.sources[1].wieght: unknown key (did you mean 'data.sources[1].weight'?)");
  expect_has(message, "\n    |                         ^");
}

TEST(Read, UnknownKeysTellWhereTheyBelong) {
  expect_has(text_error(std::string(kGood) + "lr: 1\n"), "lr: unknown key (did you mean 'optim.lr'?)");
  expect_has(text_error(std::string(kGood) + "warmup_steps: 1\n"), "(did you mean 'optim.warmup_steps'?)");
  expect_has(text_error(std::string(kGood) + "eval: {zzz: 1}\n"),
             "eval.zzz: unknown key; known here: every_steps, max_tokens");
}

TEST(Read, TypesAreStrict) {
  auto lr = [](const std::string& value) { return text_error(with(kGood, "lr: 6e-4", "lr: " + value)); };
  expect_has(lr("\"6e-4\""), "optim.lr: expected a value without quotes, found '6e-4' in quotes");
  expect_has(lr("[1]"), "optim.lr: expected a single value, found a list");
  expect_has(lr("{a: 1}"), "optim.lr: expected a single value, found a section");
  expect_has(lr(""), "optim.lr: has no value; give one, or remove the key for the default");
  expect_has(lr("1e400"), "optim.lr: expected a number that fits a double");
  expect_has(lr(".nan"), "optim.lr: expected a number");
  expect_has(lr("nan"), "optim.lr: expected a number");
  expect_has(text_error(with(kGood, "seq_len: 128", "seq_len: 1.5")), "data.seq_len: expected an integer");
  expect_has(text_error(with(kGood, "optim:\n  lr: 6e-4\n  lr_final: 6e-5", "optim: 3")),
             "optim: expected a section");
  expect_has(text_error(with(kGood, "  val:\n    - {name: faq, path: data/faq.h5}", "  val: 3")),
             "data.val: expected a list");
  expect_has(text_error(with(kGood, "num_layers: 6", "widths: [1, 0]")),
             "model.widths[1]: expected more than 0, found '0'");
  expect_has(text_error(with(kGood, "tokenizer: vocab.txt", "tokenizer: \"a\\nb\"")),
             "data.tokenizer: expected a path without control characters");
  for (const char* word : {"yes", "No", "on", "OFF", "True", "y"}) {
    expect_has(text_error(with(kGood, "num_layers: 6", str("tied: ", word))),
               "model.tied: expected true or false; write ");
  }
}

TEST(Read, TextKeepsWhatLooksLikeSomethingElse) {
  EXPECT_EQ(load_text(std::string(kGood) + "name: no\n").config.name, "no");
  EXPECT_EQ(load_text(std::string(kGood) + "name: 1e3\n").config.name, "1e3");
  EXPECT_EQ(load_text(std::string(kGood) + "name: 'a: b'\n").config.name, "a: b");
}

TEST(Read, WhatCouldNotBeReadIsNotMissing) {
  for (const char* text : {"seed: [1\n", "model:\n\tarch: toy\n", "name: 'a\n", "seed: 1\n---\nseed: 2\n",
                           "include: run.yaml\n"}) {
    const std::string message = text_error(text);
    EXPECT_EQ(message.find("is missing"), std::string::npos) << message;
    expect_has(message, "1 problem");
  }
  // A key that is given twice was read.
  expect_has(text_error("seed: 1\nseed: 2\n"), "model.arch: is missing");
}

TEST(Read, RequiredKeys) {
  expect_has(text_error("{}"), "model.arch: is missing; expected one of other, toy");
  expect_has(text_error("{}"), "data.sources: is missing");
  expect_has(text_error(""), "run.yaml: data.tokenizer: is missing");
  expect_has(text_error(with(kGood, "  hidden_size: 256\n", "")),
             "run.yaml:2:3: model.hidden_size: is missing: width (C)");
  expect_has(text_error(with(kGood, "    - {name: faq, path: data/faq.h5}", "    - {name: faq}")),
             "data.val[0].path: is missing");
  expect_has(text_error(with(kGood, "tokenizer: vocab.txt", "tokenizer: ''")),
             "data.tokenizer: must not be empty");
  expect_has(text_error(with(kGood, "arch: toy", "arch: tory")),
             "model.arch: found 'tory', expected one of other, toy (did you mean 'toy'?)");
}

TEST(Read, OptionalValuesMayBeNull) {
  LoadedRun run = load_text(with(kGood, "max_tokens: 1.5M", "max_tokens: null\n  max_steps: 100"));
  EXPECT_FALSE(run.config.recipe->max_tokens);
  EXPECT_EQ(run.config.total_steps(), 100);
}

TEST(Read, HomeInPaths) {
  LoadedRun run = load_text(with(kGood, "tokenizer: vocab.txt", "tokenizer: ~/my words/w\xc3\xb6rter.txt"));
  EXPECT_EQ(run.config.data.tokenizer, std::string(std::getenv("HOME")) + "/my words/w\xc3\xb6rter.txt");
}

TEST(Yaml, SyntaxErrorsTellThePlace) {
  expect_has(text_error("model:\n  arch: toy\n  x: [1, 2\noptim: 3\n"), "run.yaml:");
  expect_has(text_error("a: \"open\nb: 1\n"),
             "run.yaml:1:4: YAML syntax: the quote that starts here is not closed");
  expect_has(text_error("b: 1\na: &x 'open''\n"),
             "run.yaml:2:4: YAML syntax: the quote that starts here is not closed");
  expect_has(text_error("a: \"open"), "a quote is not closed");
  EXPECT_EQ(load_text(std::string(kGood) + "name: &n 'it''s'\n").config.name, "it's");
  EXPECT_EQ(load_text(std::string(kGood) + "name: |\n  it's\n").config.name, "it's\n");
  expect_has(text_error("a: b: c\n"), "run.yaml:1:5: YAML syntax: ");
  expect_has(text_error("a: b: c\n"), "needs quotes");
  expect_has(text_error("model:\n\tarch: toy\n"),
             "run.yaml:2:1: a tab in the indentation; use spaces\n  2 |  arch: toy\n    | ^");
  expect_has(text_error("model:\n  arch: t\xffy\n"), "run.yaml:2:10: not valid UTF-8 (byte 0xff)");
  expect_has(text_error("a: \xed\xa0\x80\n"), "not valid UTF-8");
  expect_has(text_error("a: \xc0\xaf\n"), "not valid UTF-8");
  expect_has(text_error(std::string("a: \0b\n", 6)), "NUL byte");
  expect_has(text_error("a: 1\n---\nb: 2\n"), "a second document");
  expect_has(text_error("a: !!python/object x\n"), "tag");
  expect_has(text_error("base: &b {x: 1}\nc:\n  <<: *b\n"), "merge keys");
  expect_has(text_error("? [a, b]\n: 1\n"), "expected a key");
  expect_has(text_error("- 1\n- 2\n"), "expected a section");
  expect_has(text_error("hello\n"), "expected a section");
}

TEST(Yaml, TabsAndMarksElsewhereAreFine) {
  EXPECT_EQ(load_text(with(kGood, "arch: toy", "arch: toy\t# a tab before a comment")).config.model->arch(),
            "toy");
  EXPECT_EQ(load_text("\xef\xbb\xbf" + std::string(kGood)).config.model->arch(), "toy");
  std::string crlf;
  for (char c : std::string(kGood)) crlf += c == '\n' ? std::string("\r\n") : std::string(1, c);
  EXPECT_EQ(load_text(crlf).config.model->arch(), "toy");
}

TEST(Yaml, AliasesWorkAndBombsDoNot) {
  LoadedRun run = load_text(with(kGood, "- {name: faq, path: data/faq.h5}",
                                 "- &s {name: faq, path: data/faq.h5}\n    - {name: two, path: x.h5}"));
  EXPECT_EQ(run.config.data.val.size(), 2u);
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) {
    std::string alias = str("*a", i - 1);
    bomb += str("a", i, ": &a", i, " [", alias);
    for (int j = 0; j < 9; ++j) bomb += ", " + alias;
    bomb += "]\n";
  }
  auto start = std::chrono::steady_clock::now();
  expect_has(text_error(bomb), "more than 20000 values, aliases expanded");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  expect_has(text_error("a: &a [*a]\n"), "alias stands inside the node that it names");
  expect_has(text_error(std::string(5000, '[')), "YAML syntax: nested too deeply");
  expect_has(text_error("a: " + std::string(5000, '{')), "YAML syntax");
}

TEST(Yaml, FilesThatAreTooLargeAreRefusedUnread) {
  TempDir dir;
  fs::path big = put(dir, "big.yaml", "");
  fs::resize_file(big, 100 << 20);
  expect_has(error_of([&] { load_run({big}, {}); }), "holds 104857600 bytes, expected at most 1048576");
}

TEST(Include, MergesFromLeftToRightAndTheIncludingFileWins) {
  TempDir dir;
  put(dir, "parts/model.yaml",
      "model: {arch: toy, num_layers: 3, hidden_size: 64}\noptim: {lr: 1, beta1: 0.5}\n");
  put(dir, "parts/more parts/d\xc3\xa4ta.yaml",
      "include: ../model.yaml\ndata: {sources: [{path: a}, {path: b}], tokenizer: t}\noptim: {lr: 2}\n");
  fs::path main_file = put(
      dir, "main.yaml",
      "include: [\"parts/more parts/d\xc3\xa4ta.yaml\"]\nrecipe: {max_steps: 50}\nmodel: {num_layers: 4}\n");
  fs::path last = put(dir, "last.yaml", "data: {sources: [{path: c}]}\nmodel:\n");
  LoadedRun run = load_run({main_file, last}, {});
  auto& toy = dynamic_cast<ToyConfig&>(*run.config.model);
  EXPECT_EQ(toy.num_layers, 4);
  EXPECT_EQ(toy.hidden_size, 64);
  EXPECT_EQ(run.config.optim.lr, 2);
  EXPECT_EQ(run.config.optim.beta1, 0.5);
  ASSERT_EQ(run.config.data.sources.size(), 1u) << "lists replace";
  EXPECT_EQ(run.config.data.sources[0].path, "c");
  EXPECT_EQ(run.config.name, "last");
  EXPECT_EQ(run.files.size(), 4u);
  expect_has(to_string(run.origins.at("optim.lr")), "ta.yaml:3:9");
  expect_has(to_string(run.origins.at("model.num_layers")), "main.yaml:3:9");
}

TEST(Include, CyclesMissingFilesAndBombs) {
  TempDir dir;
  fs::path a = put(dir, "a.yaml", "seed: 1\ninclude: b.yaml\n");
  put(dir, "b.yaml", "include: ./a.yaml\n");
  std::string message = error_of([&] { load_run({a}, {}); });
  expect_has(message, "b.yaml:1:10: include: the files include each other: ");
  expect_has(message, "a.yaml -> ");
  fs::path c = put(dir, "c.yaml", "include: nowhere.yaml\n");
  message = error_of([&] { load_run({c}, {}); }, ExitCode::kNoInput);
  expect_has(message, "c.yaml:1:10: include: ");
  expect_has(message, "nowhere.yaml: no such file");
  error_of([&] { load_run({dir.path() / "none.yaml"}, {}); }, ExitCode::kNoInput);
  error_of([&] { load_run({dir.path()}, {}); }, ExitCode::kNoInput);
  for (int i = 0; i < 8; ++i)
    put(dir, str("bomb", i, ".yaml"), str("include: [bomb", i + 1, ".yaml, bomb", i + 1, ".yaml]\n"));
  put(dir, "bomb8.yaml", "seed: 1\n");
  expect_has(error_of([&] { load_run({dir.path() / "bomb0.yaml"}, {}); }), "more than 64 files");
  fs::path d = put(dir, "d.yaml", "include: {a: 1}\n");
  expect_has(error_of([&] { load_run({d}, {}); }), "expected a file name or a list");
}

TEST(Override, EveryForm) {
  LoadedRun run = load_text(
      kGood, {"optim.lr=3e-4", "data.sources[0].weight=0.7", "data.val=[{name: x, path: y}]", "name=\"a b\"",
              "~optim.lr_final", "model.widths=[4, 5, 6]", "~data.sources[1]", "optim.beta1=0.5",
              "optim.beta1=0.6", "recipe.max_tokens=", "recipe.max_steps=77", "~log.tensorboard", "seed=9"});
  const RunConfig& c = run.config;
  EXPECT_EQ(c.optim.lr, 3e-4);
  ASSERT_EQ(c.data.sources.size(), 1u);
  EXPECT_EQ(c.data.sources[0].weight, 0.7);
  EXPECT_EQ(c.data.val[0].path, "y");
  EXPECT_EQ(c.name, "a b");
  EXPECT_EQ(c.optim.lr_final, OptimConfig().lr_final);
  EXPECT_EQ(dynamic_cast<ToyConfig&>(*c.model).widths, (std::vector<int64_t>{4, 5, 6}));
  EXPECT_EQ(c.optim.beta1, 0.6) << "the last one wins";
  EXPECT_EQ(c.total_steps(), 77);
  EXPECT_EQ(c.seed, 9);
  EXPECT_EQ(to_string(run.origins.at("optim.lr")), "command line");
}

TEST(Override, MayChooseAnotherArchitecture) {
  LoadedRun run = load_text(with(kGood, "  num_layers: 6\n  hidden_size: 256\n", ""),
                            {"model.arch=other", "model.depth=3"});
  EXPECT_EQ(dynamic_cast<OtherConfig&>(*run.config.model).depth, 3);
}

TEST(Override, MistakesOfTheLineAreUsageErrors) {
  auto usage = [](const std::string& override) { return text_error(kGood, {override}, ExitCode::kUsage); };
  expect_has(usage("optim.lrr=1"),
             "command line: optim.lrr: unknown key (did you mean 'optim.lr'?)\n  optim.lrr=1\n        ^");
  expect_has(usage("optm.lr=1"), "optm: unknown key (did you mean 'optim'?)");
  expect_has(usage("lr=1"), "(did you mean 'optim.lr'?)");
  expect_has(usage("~optim.lrr"), "optim.lrr: unknown key (did you mean 'optim.lr'?)");
  expect_has(usage("data.sources[2].weight=1"), "the list has 2 entries, [0] to [1]");
  expect_has(usage("data.sources[x].weight=1"), "expected an index such as [0], found [x]");
  expect_has(usage("data.sources[99999999999999999999].weight=1"), "expected an index");
  expect_has(usage("model.widths[0]=1"), "there is no list to take [0] of");
  for (const char* form :
       {"=1", ".a=1", "a.=1", "a..b=1", "[0]=1", "a[=1", "a[]=1", "a[0]b=1", "~", "optim"}) {
    expect_has(usage(form), "expected an override such as");
  }
  expect_has(text_error(kGood, {"optim.lr=abc"}),
             "command line: optim.lr: expected a number such as 0.1 or 6e-4, found 'abc'\n  optim.lr=abc\n   "
             "        ^");
  expect_has(text_error(kGood, {"data.val=[{name: x"}), "YAML syntax");
  expect_has(text_error(kGood, {"name=\xff"}), "not valid UTF-8");
  expect_has(text_error(kGood, {"seed.x=1"}), "seed: expected a single value, found a section");
  // Both kinds together: the configuration is wrong whatever the line.
  expect_has(text_error(with(kGood, "seq_len: 128", "seq_len: 0"), {"optim.lrr=1"}), "2 problems");
}

TEST(Override, PrecedenceTable) {
  // default < included file < including file < later file < earlier override < later override
  TempDir dir;
  put(dir, "part.yaml", "optim: {beta1: 0.11}\n");
  fs::path base = put(dir, "base.yaml", std::string(kGood) + "include: part.yaml\n");
  fs::path own =
      put(dir, "own.yaml", with(kGood, "lr: 6e-4", "lr: 6e-4\n  beta1: 0.22") + "include: part.yaml\n");
  fs::path later = put(dir, "later.yaml", "optim: {beta1: 0.33}\n");
  struct Case {
    std::vector<fs::path> files;
    std::vector<std::string> overrides;
    double beta1;
    std::string origin;
  };
  fs::path plain = put(dir, "plain.yaml", kGood);
  for (const Case& c :
       std::vector<Case>{{{plain}, {}, 0.9, "configuration"},
                         {{base}, {}, 0.11, "part.yaml:1:9"},
                         {{own}, {}, 0.22, "own.yaml:20:3"},
                         {{own, later}, {}, 0.33, "later.yaml:1:9"},
                         {{later, own}, {}, 0.22, "own.yaml:20:3"},
                         {{own, later}, {"optim.beta1=0.44"}, 0.44, "command line"},
                         {{own, later}, {"optim.beta1=0.44", "optim.beta1=0.55"}, 0.55, "command line"},
                         {{own, later}, {"optim.beta1=0.44", "~optim.beta1"}, 0.9, "configuration"}}) {
    LoadedRun run = load_run(c.files, c.overrides);
    EXPECT_EQ(run.config.optim.beta1, c.beta1);
    auto it = run.origins.find("optim.beta1");
    expect_has(it == run.origins.end() ? "configuration" : to_string(it->second), c.origin);
  }
}

TEST(Validate, EveryConditionShowsItsArithmetic) {
  auto message = [](const std::vector<std::string>& overrides) { return text_error(kGood, overrides); };
  expect_has(message({"recipe.global_batch_size=18"}),
             "command line: recipe.global_batch_size: global_batch_size 18 is not divisible by "
             "micro_batch_size 4 x 1 rank = 4; use 16 or 20");
  expect_has(message({"recipe.max_steps=5"}),
             "run.yaml:14:1: recipe: max_steps and max_tokens are both given; keep one");
  expect_has(message({"~recipe.max_tokens"}), "the length of the run is missing");
  expect_has(message({"recipe.max_tokens=100"}),
             "max_tokens 100 is less than one step of global_batch_size 16 x seq_len 128 = 2048 tokens");
  expect_has(message({"recipe.max_tokens=", "recipe.max_steps=1e12", "recipe.global_batch_size=1e9",
                      "data.seq_len=1e9"}),
             "do not fit 64 bits");
  expect_has(message({"optim.lr_final=1"}), "lr_final 1 is larger than lr 6e-04");
  expect_has(message({"optim.warmup_steps=732"}), "warmup_steps 732 leaves nothing of the 732 steps");
  expect_has(message({"optim.schedule=wsd"}), "schedule wsd needs decay_steps");
  expect_has(message({"optim.schedule=wsd", "optim.decay_steps=723"}),
             "decay_steps 723 is more than 732 steps - warmup_steps 10 = 722");
  expect_has(message({"optim.decay_steps=5"}), "decay_steps 5 belongs to schedule wsd");
  expect_has(message({"eval.every_steps=5", "data.val=[]"}), "list one in data.val");
  expect_has(message({"checkpoint.keep_best=1"}), "set eval.every_steps");
  expect_has(message({"data.val=[{name: a, path: b}, {name: a, path: c}]"}),
             "data.val[1].name: the name 'a' is taken");
  expect_has(message({"data.val=[{name: a/b, path: b}]"}), "must not hold '/'");
  expect_has(message({"data.sources=[{path: a, weight: 1e308}, {path: b, weight: 1e308}]"}),
             "sum of the weights");
  expect_has(message({"data.sources=[{path: a, weight: 0}]"}), "expected more than 0");
  expect_has(message({"model.hidden_size=100"}), "model.hidden_size: hidden_size 100 is not divisible by 64");
  expect_has(message({"optim.lr_final=1", "model.hidden_size=100"}), "2 problems");
  EXPECT_NO_THROW(load_text(kGood, {"optim.schedule=wsd", "optim.decay_steps=722"}));
  EXPECT_NO_THROW(load_text(kGood, {"optim.schedule=constant", "optim.lr_final=1"}));
}

TEST(Validate, CountsRanks) {
  LoadedRun run = load_text(kGood);
  EXPECT_NO_THROW(run.config.validate(4));
  expect_has(error_of([&] { run.config.validate(3); }),
             "global_batch_size 16 is not divisible by micro_batch_size 4 x 3 ranks = 12; use 12 or 24");
}

TEST(Validate, StagesShareTheBlocks) {
  const TempDir dir;
  const fs::path file = put(dir, "run.yaml", kGood);
  EXPECT_NO_THROW(load_run({file}, {"mesh.pipe=2"}, 2));
  EXPECT_NO_THROW(load_run({file}, {"mesh.pipe=3", "mesh.pipe_split=[1, 2, 3]"}, 3));
  const auto message = [&](int64_t world, const std::vector<std::string>& overrides) {
    return error_of([&] { load_run({file}, overrides, world); });
  };
  expect_has(message(7, {"mesh.pipe=7"}), "pipe 7: each stage needs a block, the model has 6");
  expect_has(message(2, {"mesh.pipe=2", "mesh.pipe_split=[1, 2, 3]"}),
             "pipe_split has 3 entries (1 + 2 + 3), expected one for each of pipe 2");
  expect_has(message(2, {"mesh.pipe=2", "mesh.pipe_split=[3, 4]"}),
             "pipe_split 3 + 4 = 7 blocks, the model has 6");
}

TEST(Writers, ResolvedYamlIsCompleteAndReadsBackToTheSame) {
  LoadedRun run = load_text(kGood, {"name=\"say \\\"hi\\\": \xc3\xa4\"", "model.widths=[7]",
                                    "optim.eps=1.25e-19", "init.from=a b/c"});
  std::string yaml = resolved_yaml(run.config);
  RunConfig again = parse_run(yaml, "resolved");
  EXPECT_EQ(resolved_yaml(again), yaml);
  EXPECT_EQ(again.name, "say \"hi\": \xc3\xa4");
  EXPECT_EQ(again.optim.eps, 1.25e-19);
  EXPECT_EQ(fingerprint(again), fingerprint(run.config));
  expect_has(yaml, "\n  max_steps: null\n");
  for (const Leaf& leaf : leaves(*make_member(run.config))) {
    std::string key = leaf.path.substr(leaf.path.find_last_of('.') + 1);
    if (!key.ends_with("]")) expect_has(yaml, key + ": ");
  }
  again.seed += 1;
  EXPECT_NE(fingerprint(again), fingerprint(run.config));
}

TEST(Writers, EmptyListsAndOddTextSurvive) {
  RunConfig c = load_text(kGood, {"data.val=[]", "model.widths=[]"}).config;
  for (const char* name :
       {"true", "no", "1e3", "null", "~", "", " x ", "a#b", "- a", "[x]", "x: y", "\t", "*a", "\x7f"}) {
    c.name = name;
    EXPECT_EQ(parse_run(resolved_yaml(c), "resolved").name, name);
  }
}

TEST(Writers, OriginsStandBesideTheValues) {
  LoadedRun run = load_text(kGood, {"optim.beta1=0.5"});
  std::string text = resolved_yaml(run.config, &run.origins);
  auto line_with = [&](const std::string& part) {
    size_t at = text.find(part);
    return at == std::string::npos ? "" : text.substr(at, text.find('\n', at) - at);
  };
  expect_has(line_with("  lr: 6e-04"), "run.yaml:19:3");
  expect_has(line_with("  beta1: 0.5"), "# command line");
  expect_has(line_with("  beta2: "), "# default");
  EXPECT_EQ(resolved_yaml(parse_run(text, "with comments")), resolved_yaml(run.config));
}

TEST(Writers, JsonSchemaHoldsEveryKey) {
  RunConfig c;
  auto schema = nlohmann::json::parse(json_schema(*make_member(c), "rookery"));
  EXPECT_EQ(schema["additionalProperties"], false);
  EXPECT_EQ(schema["properties"]["optim"]["properties"]["lr"]["exclusiveMinimum"], 0);
  EXPECT_EQ(schema["properties"]["data"]["properties"]["sampling"]["enum"].size(), 3u);
  EXPECT_EQ(schema["properties"]["data"]["properties"]["sources"]["items"]["required"][0], "path");
  EXPECT_EQ(schema["properties"]["model"]["anyOf"].size(), 2u);
  EXPECT_EQ(schema["properties"]["recipe"]["anyOf"][0]["properties"]["kind"]["const"], "pretrain");
  EXPECT_TRUE(schema["properties"].contains("include"));
}

TEST(Writers, ReferenceHoldsEveryKeyOfEveryArchitecture) {
  RunConfig c;
  std::string page = markdown_reference(*make_member(c));
  for (const char* row :
       {"| `lr` | number, more than 0 | `6e-04` | peak learning rate |", "`model` with `arch: toy`",
        "`model` with `arch: other`",
        "| `hidden_size` | integer, at least 1 and at most 1000000 | required | width (C) |",
        "| `max_steps` | integer", "| `every_minutes` | duration (minutes), at least 0 | `30` |",
        "## `data.sources[]`"}) {
    expect_has(page, row);
  }
}

TEST(Resume, ClassesOfChanges) {
  RunConfig saved = load_text(kGood).config;
  auto changes = [&](const std::vector<std::string>& overrides) {
    return resume_changes(saved, load_text(kGood, overrides).config);
  };
  EXPECT_TRUE(changes({}).stop.empty());
  EXPECT_TRUE(changes({}).note.empty());
  auto stop = changes(
      {"model.num_layers=7", "data.seq_len=64", "seed=5", "precision=bf16", "optim.lr=1e-3", "run_dir=x"});
  std::vector<std::string> paths;
  for (const Difference& d : stop.stop) paths.push_back(d.path);
  EXPECT_EQ(paths, (std::vector<std::string>{"seed", "precision", "model.num_layers", "data.seq_len"}));
  ASSERT_EQ(stop.note.size(), 1u);
  EXPECT_EQ(stop.note[0].path, "optim.lr");
  EXPECT_EQ(stop.note[0].left, "6e-04");
  EXPECT_EQ(stop.note[0].right, "0.001");
  EXPECT_TRUE(
      changes({"data.sources[0].path=elsewhere/en.h5", "data.sources[1].weight=3", "data.tokenizer=x"})
          .stop.empty());
  EXPECT_EQ(changes({"data.sources[0].path=elsewhere/en.h5", "data.sources[1].weight=3", "data.tokenizer=x"})
                .note.size(),
            3u);
  EXPECT_FALSE(changes({"~data.sources[1]"}).stop.empty());
  EXPECT_TRUE(changes({"log.every_steps=1", "checkpoint.keep_last=9", "eval.every_steps=5"}).note.empty());
}

// 10,000 mutations of valid files: each is read or refused with an Error of the configuration's exit codes;
// nothing else comes out.
TEST(Hostile, MutatedYamlIsReadOrRefused) {
  std::mt19937_64 random(20240607);
  const std::string alphabet = ":-[]{}#&*!|>'\"%@`,?\n\t \\~=<.0e9ax\x80\xc3\xff";
  RunConfig defaults;
  int read = 0, refused = 0;
  for (int i = 0; i < 10000; ++i) {
    std::string text = kGood;
    for (uint64_t edits = 1 + random() % 4; edits > 0; --edits) {
      size_t at = random() % text.size();
      switch (random() % 5) {
        case 0:
          text[at] = alphabet[random() % alphabet.size()];
          break;
        case 1:
          text.insert(at, 1, alphabet[random() % alphabet.size()]);
          break;
        case 2:
          text.erase(at, 1 + random() % 8);
          break;
        case 3:
          text.insert(at, text.substr(random() % text.size(), random() % 40));
          break;
        case 4:
          text.resize(at + 1);
          break;
      }
      if (text.empty()) text = " ";
    }
    try {
      RunConfig config = parse_run(text, "mutated");
      EXPECT_EQ(resolved_yaml(parse_run(resolved_yaml(config), "again")), resolved_yaml(config)) << text;
      ++read;
    } catch (const Error& e) {
      EXPECT_EQ(int(e.code()), int(ExitCode::kConfig)) << e.what() << "\n" << text;
      EXPECT_EQ(e.id(), "CFG-01") << e.what();
      ++refused;
    }
  }
  EXPECT_GT(read, 300);
  EXPECT_GT(refused, 500);
}

}  // namespace
}  // namespace rookery::config
