// bench_report.cpp: `rookery bench report`: what scripts/gpu_check found, as one JSON and one Markdown file,
// and as the page docs/gpu-results.md, which says of every kernel whether it was seen working on a GPU.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>

#include "kernels/base/io.h"
#include "trainer/cli/bench.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/terminal.h"
#include "trainer/cli/version.h"
#include "trainer/loop/human.h"
#include "trainer/loop/metrics.h"

namespace rookery::cli {
namespace {

namespace fs = std::filesystem;
using loop::fixed;
using nlohmann::json;

constexpr uint64_t kLargest = 64 << 20;
constexpr const char* kNotSeen = "not yet seen";

json read_json(const fs::path& path) {
  json value = json::parse(io::read_file(path, kLargest), nullptr, false);
  if (!value.is_object())
    fail(ExitCode::kData, "BENCH-04", path.string(), ": found ",
         value.is_discarded() ? "no JSON" : value.type_name(),
         ", expected a JSON object; mend it by running scripts/gpu_check again");
  return value;
}

std::string text_of(const json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

double number_of(const json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_number() ? it->get<double>() : NAN;
}

// The objects of an array; none where it is not there.
std::vector<json> objects_of(const json& object, const char* key) {
  std::vector<json> list;
  if (const auto it = object.find(key); it != object.end() && it->is_array())
    for (const json& one : *it)
      if (one.is_object()) list.push_back(one);
  return list;
}

std::vector<std::string> words_of(const json& object, const char* key) {
  std::vector<std::string> list;
  if (const auto it = object.find(key); it != object.end() && it->is_array())
    for (const json& one : *it)
      if (one.is_string()) list.push_back(one.get<std::string>());
  return list;
}

bool is_true(const json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && *it == true;
}

// Lines of words.
std::vector<std::vector<std::string>> table(const fs::path& path, size_t columns) {
  std::istringstream lines(io::read_file(path, kLargest));
  std::vector<std::vector<std::string>> rows;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::vector<std::string> row;
    for (std::string word; words >> word;) row.push_back(word);
    if (row.size() != columns)
      fail(ExitCode::kData, "BENCH-04", path.string(), ", line ", rows.size() + 1, ": found ", row.size(),
           " words, expected ", columns);
    rows.push_back(row);
  }
  return rows;
}

double number(const std::string& word, const fs::path& path) {
  double value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size())
    fail(ExitCode::kData, "BENCH-04", path.string(), ": found '", printable(word), "', expected a number");
  return value;
}

std::string shown(double value, int digits, const char* unit = "") {
  return std::isfinite(value) ? fixed(value, digits) + unit : "n/a";
}

// A stage of scripts/gpu_check and how it ended.
enum class Outcome : uint8_t { kPassed, kFailed, kOutOfTime, kNotBegun };
constexpr std::pair<const char*, const char*> kOutcomes[] = {{"passed", "passed"},
                                                             {"failed", "failed"},
                                                             {"out-of-time", "ran out of time"},
                                                             {"not-begun", "not begun: no time was left"}};
struct Stage {
  std::string name;
  Outcome outcome;
  double exit_code, seconds, limit;
};

std::vector<Stage> read_stages(const fs::path& path) {
  std::vector<Stage> stages;
  for (const auto& row : table(path, 5)) {
    size_t outcome = 0;
    while (outcome < std::size(kOutcomes) && row[1] != kOutcomes[outcome].first) ++outcome;
    if (outcome == std::size(kOutcomes))
      fail(ExitCode::kData, "BENCH-04", path.string(), ": found '", printable(row[1]),
           "', expected the outcome of a stage");
    stages.push_back({row[0], static_cast<Outcome>(outcome), number(row[2], path), number(row[3], path),
                      number(row[4], path)});
  }
  return stages;
}

// What the stages whose names begin so have left in NAME.json, of those that passed.
std::vector<json> results(const fs::path& folder, const std::vector<Stage>& stages,
                          const std::string& start) {
  std::vector<json> found;
  for (const Stage& stage : stages)
    if (stage.outcome == Outcome::kPassed && stage.name.starts_with(start))
      found.push_back(read_json(folder / (stage.name + ".json")));
  return found;
}

struct Tests {
  int passed = 0, failed = 0;
  bool ended = true;  // all of the suite's stage
};

// By suite: the stage tests-SUITE, whose results are GoogleTest's JSON. One that was killed left none.
std::map<std::string, Tests> tests_in(const fs::path& folder, const std::vector<Stage>& stages) {
  std::map<std::string, Tests> suites;
  for (const Stage& stage : stages) {
    if (!stage.name.starts_with("tests-")) continue;
    const std::string name = stage.name.substr(6);
    Tests& t = suites[name];
    const fs::path path = folder / (stage.name + ".json");
    const bool passed = stage.outcome == Outcome::kPassed;
    t.ended = passed;
    if (!passed && (stage.outcome != Outcome::kFailed || !fs::exists(path))) continue;
    for (const json& suite : objects_of(read_json(path), "testsuites"))
      for (const json& test : objects_of(suite, "testsuite"))
        if (text_of(suite, "name") == name && text_of(test, "result") == "COMPLETED")
          ++(test.contains("failures") ? t.failed : t.passed);
  }
  return suites;
}

// What compute-sanitizer says of all kernels together: "clean" only where each stage ended and reported that
// there are no errors.
std::string sanitizer_verdict(const fs::path& folder, const std::vector<Stage>& stages) {
  std::string verdict = "not run";
  for (const Stage& stage : stages) {
    if (!stage.name.starts_with("memcheck-") && !stage.name.starts_with("racecheck-")) continue;
    if (stage.outcome == Outcome::kFailed) return "errors";
    static const std::regex kClean("SUMMARY:.*[^0-9]0 errors");
    const bool clean = stage.outcome == Outcome::kPassed &&
                       std::regex_search(io::read_file(folder / (stage.name + ".txt"), kLargest), kClean);
    if (!clean || verdict == "not run") verdict = clean ? "clean" : "unfinished";
  }
  return verdict;
}

std::string sanitizer_text(const std::string& verdict) {
  return str("compute-sanitizer ",
             verdict == "clean"    ? "(memcheck, racecheck) reported 0 errors."
             : verdict == "errors" ? "reported errors."
             : verdict == "unfinished"
                 ? "did not end, so that nothing counts as seen."
                 : "was not installed: nobody has looked for races and accesses out of bounds there.");
}

// Losses of the last third of a run, by step.
std::map<int64_t, double> late_losses(const fs::path& run) {
  std::map<int64_t, double> losses;
  const fs::path path = run / "metrics.jsonl";
  if (!fs::exists(path)) return losses;
  for (const json& record : loop::read_metrics(path))
    if (const double step = number_of(record, "step");
        text_of(record, "event") == "step" && step >= 0 && step < 1e9)
      losses[static_cast<int64_t>(step)] = number_of(record, "loss");
  if (losses.empty()) return losses;
  const int64_t last = losses.rbegin()->first;
  losses.erase(losses.begin(), losses.upper_bound(last - (last + 2) / 3));
  return losses;
}

// Mean over the steps that both have of the difference; NaN where there is none.
double distance(const std::map<int64_t, double>& a, const std::map<int64_t, double>& b) {
  double sum = 0;
  int count = 0;
  for (const auto& [step, loss] : a)
    if (const auto other = b.find(step); other != b.end()) {
      sum += loss - other->second;
      ++count;
    }
  return count > 0 ? std::abs(sum) / count : NAN;
}

// NaN becomes null.
json known(double value) { return std::isfinite(value) ? json(value) : json(); }

// Each model in bf16, in fp32 and in fp32 from another seed: the stages train-MODEL-KIND.
json training_in(const fs::path& folder, const std::vector<Stage>& stages) {
  json list = json::array();
  std::set<std::string> passed;
  for (const Stage& stage : stages)
    if (stage.outcome == Outcome::kPassed) passed.insert(stage.name);
  for (const Stage& stage : stages) {
    if (!stage.name.starts_with("train-") || !stage.name.ends_with("-bf16")) continue;
    const std::string model = stage.name.substr(6, stage.name.size() - 11);
    auto losses = [&](const char* kind) {
      const std::string run = str(model, "-", kind);
      return passed.contains("train-" + run) ? late_losses(folder / "runs" / run)
                                             : std::map<int64_t, double>();
    };
    const auto curve = losses("bf16"), fp32 = losses("fp32"), seed = losses("seed");
    const double difference = distance(curve, fp32), noise = distance(fp32, seed);
    auto last = [](const auto& all) { return all.empty() ? NAN : all.rbegin()->second; };
    list.push_back({{"model", model},
                    {"bf16_loss", known(last(curve))},
                    {"fp32_loss", known(last(fp32))},
                    {"difference", known(difference)},
                    {"other_seed", known(noise)},
                    // What the number of steps leaves to chance: a hundredth of a nat.
                    {"within_noise", difference <= std::max(noise, 0.01)}});
  }
  return list;
}

// One object with all that the folder holds.
json gather(const fs::path& folder, const std::string& device) {
  json result{{"device", device}, {"version", program_version()}, {"revision", source_revision()}};
  if (fs::exists(folder / "doctor.json"))
    for (const json& check : objects_of(read_json(folder / "doctor.json"), "checks"))
      if (text_of(check, "check") == "GPU 0") result["gpu"] = text_of(check, "found");
  const std::vector<Stage> stages = read_stages(folder / "stages");
  result["stages"] = json::array();
  for (const Stage& stage : stages)
    result["stages"].push_back({{"stage", stage.name},
                                {"outcome", kOutcomes[static_cast<size_t>(stage.outcome)].second},
                                {"exit_code", stage.exit_code},
                                {"seconds", stage.seconds},
                                {"limit_seconds", stage.limit}});
  json passes = json::array(), rates;
  for (const json& bench : results(folder, stages, "bench-op-")) {
    if (bench.contains("rates")) rates = bench["rates"];
    for (json pass : objects_of(bench, "passes")) {
      pass["precision"] = text_of(bench, "precision");
      passes.push_back(std::move(pass));
    }
  }
  result["rates"] = rates;
  result["passes"] = passes;
  const std::string sanitizer = sanitizer_verdict(folder, stages);
  result["sanitizer"] = sanitizer;
  const auto suites = tests_in(folder, stages);
  result["kernels"] = json::array();
  for (const auto& row : table(folder / "kernels", 3)) {
    Tests tests;
    bool tested = true;  // each suite did something
    std::istringstream names(row[2]);
    for (std::string suite; std::getline(names, suite, ',');) {
      const auto it = suites.find(suite);
      const Tests own = it == suites.end() ? Tests{} : it->second;
      tests.passed += own.passed;
      tests.failed += own.failed;
      tests.ended = tests.ended && own.ended;
      tested = tested && own.passed > 0;
    }
    json benches = json::array();
    for (const json& pass : passes) {
      const std::vector<std::string> launched = words_of(pass, "kernels");
      if (std::find(launched.begin(), launched.end(), row[1]) == launched.end()) continue;
      json figure{{"op", text_of(pass, "op")},
                  {"pass", text_of(pass, "pass")},
                  {"precision", text_of(pass, "precision")},
                  {"seconds", known(number_of(pass, "seconds"))}};
      if (pass.contains("ratio")) figure["ratio"] = pass["ratio"];
      benches.push_back(figure);
    }
    const std::string state = tests.failed > 0                                 ? "tests fail"
                              : !tests.ended                                   ? "tests did not end"
                              : device != "cuda" || !tested || benches.empty() ? kNotSeen
                              : sanitizer == "errors"                          ? "sanitizer: errors"
                              : sanitizer == "unfinished"                      ? "sanitizer did not end"
                                                                               : "yes";
    result["kernels"].push_back({{"family", row[0]},
                                 {"kernel", row[1]},
                                 {"suites", row[2]},
                                 {"tests_passed", tests.passed},
                                 {"tests_failed", tests.failed},
                                 {"benches", benches},
                                 {"state", state},
                                 {"seen", state == "yes"}});
  }
  result["training"] = training_in(folder, stages);
  result["steps"] = results(folder, stages, "bench-step-");
  return result;
}

std::string ratio_text(const json& figure) {
  const double ratio = number_of(figure, "ratio");
  return str(text_of(figure, "op"), " ", text_of(figure, "pass"), " ", text_of(figure, "precision"), " ",
             shown(1e3 * number_of(figure, "seconds"), 3), " ms",
             std::isfinite(ratio) ? str(" (", fixed(ratio, 2), " x floor)") : "");
}

// A row per kernel. Not one that was not run on a GPU is called working.
std::string kernel_table(const json& kernels, const std::string& revision) {
  std::string text =
      "| kernel | folder | seen working on a GPU | commit | measured |\n"
      "|---|---|---|---|---|\n";
  for (const json& k : kernels) {
    const bool seen = is_true(k, "seen");
    const std::string state = text_of(k, "state");
    std::string figures;
    for (const json& figure : objects_of(k, "benches"))
      figures += (figures.empty() ? "" : "; ") + ratio_text(figure);
    text += str("| `", text_of(k, "kernel"), "` | ", text_of(k, "family"), " | ",
                state.empty() ? kNotSeen : state, " | ", seen ? revision : "", " | ", seen ? figures : "",
                " |\n");
  }
  return text;
}

std::string markdown(const json& r) {
  std::string text =
      str("# GPU check\n\n", r.contains("gpu") ? text_of(r, "gpu") : "no GPU", ", device ",
          text_of(r, "device"), ", rookery ", text_of(r, "version"), ", revision ", text_of(r, "revision"),
          "\n\n| stage | outcome | exit code | seconds | of at most |\n|---|---|---|---|---|\n");
  for (const json& s : r["stages"])
    text += str("| ", text_of(s, "stage"), " | ", text_of(s, "outcome"), " | ",
                shown(number_of(s, "exit_code"), 0), " | ", shown(number_of(s, "seconds"), 0), " | ",
                shown(number_of(s, "limit_seconds"), 0), " |\n");
  text += str("\n## Kernels\n\n", sanitizer_text(text_of(r, "sanitizer")), "\n\n") +
          kernel_table(r["kernels"], text_of(r, "revision"));
  text +=
      "\n## Training\n\n| model | loss in bf16 | in fp32 | difference | of another seed | within it "
      "|\n|---|---|---|---|---|---|\n";
  for (const json& t : r["training"])
    text +=
        str("| ", text_of(t, "model"), " | ", shown(number_of(t, "bf16_loss"), 4), " | ",
            shown(number_of(t, "fp32_loss"), 4), " | ", shown(number_of(t, "difference"), 4), " | ",
            shown(number_of(t, "other_seed"), 4), " | ", is_true(t, "within_noise") ? "yes" : "no", " |\n");
  text += "\n## Steps\n\n| model | precision | graph | tokens/s | MFU | HFU |\n|---|---|---|---|---|---|\n";
  for (const json& s : r["steps"])
    text += str("| ", text_of(s, "model"), " | ", text_of(s, "precision"), " | ", text_of(s, "graph"), " | ",
                shown(number_of(s, "tokens_per_s"), 0), " | ", shown(100 * number_of(s, "mfu"), 1, "%"),
                " | ", shown(100 * number_of(s, "hfu"), 1, "%"), " |\n");
  return text;
}

std::string page(const json& r, bool of_a_gpu) {
  size_t seen = 0;
  for (const json& k : r["kernels"]) seen += is_true(k, "seen");
  const std::string gpu = text_of(r, "gpu");
  return str(
      "# What was seen on a GPU\n\n"
      "Made by `scripts/gpu_check --page` from the kernels in the sources and docs/gpu-check.json, the last "
      "result of that script.\n"
      "A kernel counts as seen when its tests pass on a GPU against the CPU in double precision, a benchmark "
      "has launched it there, and compute-sanitizer, where it is installed, reports 0 errors.\n\n",
      of_a_gpu ? str(gpu.empty() ? "A GPU" : gpu, ". ", seen, " of ", r["kernels"].size(),
                     " kernels were seen. ", sanitizer_text(text_of(r, "sanitizer")), "\n\n")
               : "No result of a GPU is there: everything below was run under [emulation](emulation.md) "
                 "alone.\n\n",
      kernel_table(r["kernels"], text_of(r, "revision")));
}

}  // namespace

json read_gpu_check(const fs::path& path) {
  json result = read_json(path);
  if (text_of(result, "device") != "cuda")
    fail(ExitCode::kData, "BENCH-04", path.string(), ": found device '", printable(text_of(result, "device")),
         "', expected cuda; mend it by running scripts/gpu_check on a GPU");
  return result;
}

namespace {

int run(const Arguments& a) {
  const fs::path folder = a.positional()[0];
  if (a.flag("page")) {
    const auto from = a.maybe("from");
    json result = from ? read_gpu_check(*from) : json::object();
    // The kernels that the sources have now, with what is known of them.
    json kernels = json::array();
    for (const auto& row : table(folder, 3)) {
      json one{{"family", row[0]}, {"kernel", row[1]}};
      for (const json& k : objects_of(result, "kernels"))
        if (text_of(k, "kernel") == row[1]) one = k;
      kernels.push_back(one);
    }
    result["kernels"] = kernels;
    std::cout << page(result, from.has_value());
    return 0;
  }
  const json result = gather(folder, a.one_of("device", {"cuda", "emul"}));
  const std::string text = result.dump(2, ' ', false, json::error_handler_t::replace);
  io::write_file_atomic(folder / "gpu-check.json", text + "\n", "bench.report");
  io::write_file_atomic(folder / "gpu-check.md", markdown(result), "bench.report");
  return 0;
}

}  // namespace

Command bench_report_command() {
  Command c;
  c.name = "report";
  c.summary = "what scripts/gpu_check found, as tables";
  c.details =
      "Reads what the stages of scripts/gpu_check left in FOLDER and writes gpu-check.json and "
      "gpu-check.md there. With --page it prints the page docs/gpu-results.md for the list of kernels "
      "FOLDER, a file, and an earlier gpu-check.json.";
  c.positional = "FOLDER";
  c.least_positional = c.most_positional = 1;
  c.options = {{"device", "DEVICE", "that the stages ran on: cuda or emul", "cuda"},
               {"page", "", "print the page of all kernels instead"},
               {"from", "FILE", "with --page: a gpu-check.json"}};
  c.examples = {{"rookery bench report gpu-check"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput, ExitCode::kCannotCreate};
  c.run = run;
  return c;
}

}  // namespace rookery::cli
