// bench_report.cpp: `rookery bench report`: what scripts/gpu_check found, as one JSON and one Markdown file,
// and as the page docs/gpu-results.md, which says of every kernel whether it was seen working on a GPU.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
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

json read_json(const fs::path& path) {
  json value = json::parse(io::read_file(path, kLargest), nullptr, false);
  if (value.is_discarded()) fail(ExitCode::kData, "BENCH-04", path.string(), ": expected JSON");
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

std::vector<fs::path> files(const fs::path& folder, const std::string& start) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder))
    // A stage that was cut short leaves its result as .part.
    if (entry.path().filename().string().starts_with(start) && entry.path().extension() != ".part")
      found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
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

// "token_shift" and "TokenShift" alike.
std::string plain(const std::string& name) {
  std::string text;
  for (const char c : name)
    if (c != '_') text += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

struct Tests {
  int passed = 0, failed = 0;
};

// By suite, of every program's results in GoogleTest's JSON.
std::map<std::string, Tests> tests_in(const fs::path& folder) {
  std::map<std::string, Tests> suites;
  for (const fs::path& path : files(folder, "tests-")) {
    const json result = read_json(path);
    for (const json& suite : result.value("testsuites", json::array()))
      for (const json& test : suite.value("testsuite", json::array())) {
        if (text_of(test, "result") != "COMPLETED") continue;
        Tests& t = suites[plain(text_of(suite, "name"))];
        ++(test.contains("failures") ? t.failed : t.passed);
      }
  }
  return suites;
}

// Losses of the last third of a run, by step.
std::map<int64_t, double> late_losses(const fs::path& run) {
  std::map<int64_t, double> losses;
  const fs::path path = run / "metrics.jsonl";
  if (!fs::exists(path)) return losses;
  for (const json& record : loop::read_metrics(path))
    if (record["event"] == "step") losses[record["step"].get<int64_t>()] = number_of(record, "loss");
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

// Each model in bf16, in fp32 and in fp32 from another seed.
json training_in(const fs::path& folder) {
  json list = json::array();
  if (!fs::exists(folder / "runs")) return list;
  for (const fs::path& bf16 : files(folder / "runs", "")) {
    const std::string name = bf16.filename().string();
    if (!name.ends_with("-bf16")) continue;
    const std::string model = name.substr(0, name.size() - 5);
    const auto curve = late_losses(bf16), fp32 = late_losses(folder / "runs" / (model + "-fp32")),
               seed = late_losses(folder / "runs" / (model + "-seed"));
    const double difference = distance(curve, fp32), noise = distance(fp32, seed);
    auto last = [](const auto& losses) { return losses.empty() ? NAN : losses.rbegin()->second; };
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
    for (const json& check : read_json(folder / "doctor.json").value("checks", json::array()))
      if (text_of(check, "check") == "GPU 0") result["gpu"] = text_of(check, "found");
  result["stages"] = json::array();
  for (const auto& row : table(folder / "stages", 3))
    result["stages"].push_back({{"stage", row[0]},
                                {"exit_code", number(row[1], folder / "stages")},
                                {"seconds", number(row[2], folder / "stages")}});
  json passes = json::array(), rates;
  for (const fs::path& path : files(folder, "bench-op-")) {
    const json bench = read_json(path);
    if (bench.contains("rates")) rates = bench["rates"];
    for (json pass : bench.value("passes", json::array())) {
      pass["precision"] = text_of(bench, "precision");
      passes.push_back(std::move(pass));
    }
  }
  result["rates"] = rates;
  result["passes"] = passes;
  const auto suites = tests_in(folder);
  result["kernels"] = json::array();
  for (const auto& row : table(folder / "kernels", 2)) {
    const std::string family = plain(row[0]);
    Tests tests;
    for (const auto& [suite, t] : suites)
      if (suite.find(family) != std::string::npos) {
        tests.passed += t.passed;
        tests.failed += t.failed;
      }
    json benches = json::array();
    for (const json& pass : passes) {
      const json launched = pass.value("kernels", json::array());
      if (std::find(launched.begin(), launched.end(), row[1]) == launched.end()) continue;
      json figure{{"op", text_of(pass, "op")},
                  {"pass", text_of(pass, "pass")},
                  {"precision", text_of(pass, "precision")},
                  {"seconds", known(number_of(pass, "seconds"))}};
      if (pass.contains("ratio")) figure["ratio"] = pass["ratio"];
      benches.push_back(figure);
    }
    result["kernels"].push_back(
        {{"family", row[0]},
         {"kernel", row[1]},
         {"tests_passed", tests.passed},
         {"tests_failed", tests.failed},
         {"benches", benches},
         {"seen", device == "cuda" && tests.passed > 0 && tests.failed == 0 && !benches.empty()}});
  }
  result["training"] = training_in(folder);
  result["steps"] = json::array();
  for (const fs::path& path : files(folder, "bench-step-")) result["steps"].push_back(read_json(path));
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
    const bool seen = k.value("seen", false);
    std::string figures;
    for (const json& figure : k.value("benches", json::array()))
      figures += (figures.empty() ? "" : "; ") + ratio_text(figure);
    text += str("| `", text_of(k, "kernel"), "` | ", text_of(k, "family"), " | ",
                seen                               ? "yes"
                : number_of(k, "tests_failed") > 0 ? "tests fail"
                                                   : "not yet seen",
                " | ", seen ? revision : "", " | ", seen ? figures : "", " |\n");
  }
  return text;
}

std::string markdown(const json& r) {
  std::string text = str("# GPU check\n\n", r.contains("gpu") ? text_of(r, "gpu") : "no GPU", ", device ",
                         text_of(r, "device"), ", rookery ", text_of(r, "version"), ", revision ",
                         text_of(r, "revision"), "\n\n| stage | exit code | seconds |\n|---|---|---|\n");
  for (const json& s : r["stages"])
    text += str("| ", text_of(s, "stage"), " | ", shown(number_of(s, "exit_code"), 0), " | ",
                shown(number_of(s, "seconds"), 1), " |\n");
  text += "\n## Kernels\n\n" + kernel_table(r["kernels"], text_of(r, "revision"));
  text +=
      "\n## Training\n\n| model | loss in bf16 | in fp32 | difference | of another seed | within it "
      "|\n|---|---|---|---|---|---|\n";
  for (const json& t : r["training"])
    text += str("| ", text_of(t, "model"), " | ", shown(number_of(t, "bf16_loss"), 4), " | ",
                shown(number_of(t, "fp32_loss"), 4), " | ", shown(number_of(t, "difference"), 4), " | ",
                shown(number_of(t, "other_seed"), 4), " | ", t.value("within_noise", false) ? "yes" : "no",
                " |\n");
  text += "\n## Steps\n\n| model | precision | graph | tokens/s | MFU | HFU |\n|---|---|---|---|---|---|\n";
  for (const json& s : r["steps"])
    text += str("| ", text_of(s, "model"), " | ", text_of(s, "precision"), " | ", text_of(s, "graph"), " | ",
                shown(number_of(s, "tokens_per_s"), 0), " | ", shown(100 * number_of(s, "mfu"), 1, "%"),
                " | ", shown(100 * number_of(s, "hfu"), 1, "%"), " |\n");
  return text;
}

std::string page(const json& r) {
  size_t seen = 0;
  for (const json& k : r["kernels"]) seen += k.value("seen", false);
  const bool none = !r.contains("gpu");
  return str(
      "# What was seen on a GPU\n\n"
      "Made by `scripts/gpu_check --page` from the kernels in the sources and the last result of that "
      "script.\n"
      "A kernel counts as seen when its tests pass on a GPU against the CPU in double precision and a "
      "benchmark "
      "has launched it there.\n\n",
      none
          ? "No result of a GPU is there: everything below was run under [emulation](emulation.md) alone.\n\n"
          : str(text_of(r, "gpu"), ". ", seen, " of ", r["kernels"].size(), " kernels were seen.\n\n"),
      kernel_table(r["kernels"], text_of(r, "revision")));
}

int run(const Arguments& a) {
  const fs::path folder = a.positional()[0];
  if (a.flag("page")) {
    json result{{"kernels", json::array()}};
    if (const auto from = a.maybe("from")) result = read_json(*from);
    // The kernels that the sources have now, with what is known of them.
    json kernels = json::array();
    for (const auto& row : table(folder, 2)) {
      json one{{"family", row[0]}, {"kernel", row[1]}};
      for (const json& k : result["kernels"])
        if (text_of(k, "kernel") == row[1]) one = k;
      kernels.push_back(one);
    }
    result["kernels"] = kernels;
    std::cout << page(result);
    return 0;
  }
  const json result = gather(folder, a.one_of("device", {"cuda", "emul"}));
  io::write_file_atomic(folder / "gpu-check.json", result.dump(2) + "\n", "bench.report");
  io::write_file_atomic(folder / "gpu-check.md", markdown(result), "bench.report");
  return 0;
}

}  // namespace

Command bench_report_command() {
  Command c;
  c.name = "report";
  c.summary = "what scripts/gpu_check found, as tables";
  c.details =
      "Reads what the stages of scripts/gpu_check left in FOLDER and writes gpu-check.json and gpu-check.md "
      "there. With --page it prints the page docs/gpu-results.md for the list of kernels FOLDER, a file, and "
      "an "
      "earlier gpu-check.json.";
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
