// gpu_check_test.cpp: scripts/gpu_check on emulated kernels from its first stage to its report, its shares of
// time, what it says without a GPU, what counts as seen, and the page that is made from it.
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>

#include "kernels/base/str.h"
#include "kernels/cuda/device.h"
#include "tests/support/program.h"

namespace rookery::test {
namespace {

fs::path program() {
  const char* given = std::getenv("ROOKERY_BIN");
  return given ? given : "build/bin/rookery";
}

// The script, with the programs of this build.
ProgramResult gpu_check(std::vector<std::string> words) {
  const fs::path build = program().parent_path().parent_path();
  words.insert(words.begin(), {"scripts/gpu_check", "--build", build.string()});
  return run_program(words);
}

TEST(GpuCheck, EndsWithUnavailableWhereThereIsNoGpu) {
  if (cuda::inspect().problem.empty()) GTEST_SKIP() << "there is one";
  TempDir dir;
  const ProgramResult result = gpu_check({"--out", dir.path().string()});
  EXPECT_EQ(result.code, 69) << result.err;
  EXPECT_NE(result.err.find("no GPU that can be used: CUDA "), std::string::npos) << result.err;
  EXPECT_FALSE(fs::exists(dir.path() / "gpu-check.json"));
}

TEST(GpuCheck, EveryStageRunsOnEmulatedKernels) {
  TempDir dir;
#ifndef ROOKERY_HAVE_EMUL
  GTEST_SKIP() << "this build has no emulation";
#endif
  const ProgramResult result = gpu_check({"--device", "emul", "--out", dir.path().string()});
  EXPECT_EQ(result.code, 0) << result.err << slurp(dir.path() / "gpu-check.log");
  const auto json = nlohmann::json::parse(slurp(dir.path() / "gpu-check.json"));
  std::set<std::string> stages;
  for (const auto& stage : json["stages"]) {
    stages.insert(stage["stage"].get<std::string>());
    EXPECT_EQ(stage["exit_code"], 0) << stage;
    EXPECT_EQ(stage["outcome"], "passed") << stage;
  }
  for (const char* name : {"doctor", "tests-Activation", "tokens", "train-finch-bf16", "train-goose-seed",
                           "train-goldfinch-fp32", "train-llama-bf16", "bench-op-bf16", "bench-step-rwkv7"})
    EXPECT_TRUE(stages.count(name)) << name;
  ASSERT_EQ(json["training"].size(), 4u);
  for (const auto& t : json["training"]) EXPECT_TRUE(t["difference"].is_number()) << t;
  // Emulated is not seen.
  bool measured = false;
  for (const auto& kernel : json["kernels"]) {
    EXPECT_FALSE(kernel["seen"].get<bool>()) << kernel;
    measured = measured || !kernel["benches"].empty();
  }
  EXPECT_TRUE(measured);
  EXPECT_EQ(json["sanitizer"], "not run");
  const std::string text = slurp(dir.path() / "gpu-check.md");
  EXPECT_NE(text.find("| `activation_forward` | activation | not yet seen |"), std::string::npos) << text;
  EXPECT_NE(text.find("compute-sanitizer was not installed"), std::string::npos) << text;
}

// The tests never end, whatever they are told; all that comes after them has its time, and the report says
// what happened.
TEST(GpuCheck, ASlowStageTakesNoTimeOfOthers) {
  TempDir dir;
  const fs::path bundle = dir.path() / "bundle";
  fs::create_directories(bundle / "bin");
  put(dir, "bundle/run",
      str("#!/usr/bin/env bash\n"
          "if [[ $1 == ops_test ]]; then trap '' TERM; while :; do sleep 0.1; done; fi\n"
          "case \"$2 $3\" in 'doctor --json' | 'bench report') exec ",
          fs::absolute(program()).string(),
          " \"${@:2}\" ;; esac\n"
          "[[ $2 != bench ]] || echo '{}'\n"));
  for (const char* name : {"bin/rookery", "bin/ops_test"}) put(dir, str("bundle/", name), "");
  for (const char* name : {"run", "bin/rookery", "bin/ops_test"})
    fs::permissions(bundle / name, fs::perms::owner_all);
  const auto begin = std::chrono::steady_clock::now();
  const ProgramResult result =
      run_program({"scripts/gpu_check", "--bundle", bundle.string(), "--out", (dir.path() / "out").string(),
                   "--device", "emul", "--seconds", "60"});
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
  EXPECT_EQ(result.code, 1) << result.err;
  const auto json = nlohmann::json::parse(slurp(dir.path() / "out/gpu-check.json"));
  std::map<std::string, std::string> outcomes;
  for (const auto& stage : json["stages"]) {
    outcomes[stage["stage"]] = stage["outcome"];
    EXPECT_LE(stage["seconds"], stage["limit_seconds"].get<double>() + 1) << stage;
  }
  EXPECT_EQ(outcomes["tests-Activation"], "ran out of time");
  for (const char* name : {"tokens", "train-llama-seed", "bench-op-fp32", "bench-step-llama"})
    EXPECT_EQ(outcomes[name], "passed") << name;
  const std::string text = slurp(dir.path() / "out/gpu-check.md");
  EXPECT_NE(text.find("| tests-Activation | ran out of time | 137 | "), std::string::npos) << text;
  EXPECT_NE(text.find("| `activation_forward` | activation | tests did not end |"), std::string::npos)
      << text;
}

// The table of suites has each kernel of the sources and no other, and names suites of tests that include the
// kernel's family.
TEST(GpuCheck, EachKernelHasASuite) {
  std::map<std::string, std::string> family_of, tests_of;
  const std::regex kernel(R"(\nRK_BACKENDS_GPU\(void (\w+)\()"), suite(R"(\nTEST(?:_F)?\((\w+),)");
  for (const auto& entry : fs::recursive_directory_iterator("kernels/ops")) {
    if (entry.path().extension() != ".h") continue;
    const std::string text = slurp(entry.path());
    for (std::sregex_iterator it(text.begin(), text.end(), kernel), end; it != end; ++it)
      family_of[(*it)[1]] = entry.path().parent_path().string() + "/";
  }
  for (const auto& entry : fs::directory_iterator("tests/kernels")) {
    if (!entry.path().string().ends_with("_test.cpp")) continue;
    const std::string text = slurp(entry.path());
    for (std::sregex_iterator it(text.begin(), text.end(), suite), end; it != end; ++it)
      tests_of[(*it)[1]] = text;
  }
  std::istringstream table(slurp("tests/kernels/gpu_kernels.txt"));
  std::string name, suites;
  while (table >> name >> suites) {
    ASSERT_TRUE(family_of.contains(name)) << name << " is no kernel of a GPU";
    std::istringstream list(suites);
    for (std::string one; std::getline(list, one, ',');) {
      ASSERT_TRUE(tests_of.contains(one)) << name << ": no test in tests/kernels is of the suite " << one;
      EXPECT_NE(tests_of[one].find("#include \"" + family_of[name]), std::string::npos) << name << " " << one;
    }
    family_of.erase(name);
  }
  for (const auto& [missing, family] : family_of)
    ADD_FAILURE() << missing << " is missing in tests/kernels/gpu_kernels.txt";
}

TEST(GpuCheck, ThePageIsThatOfTheKernelsInTheSources) {
  const ProgramResult result = gpu_check({"--page"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(slurp("docs/gpu-results.md"), result.out) << "scripts/gpu_check --page > docs/gpu-results.md";
}

TEST(GpuCheck, MistakesAreRefused) {
  EXPECT_EQ(gpu_check({"--device", "tpu"}).code, 64);
  EXPECT_EQ(gpu_check({"--seconds", "x"}).code, 64);
  EXPECT_EQ(gpu_check({"--seconds", "0"}).code, 64);
  EXPECT_EQ(gpu_check({"--bundle", "/nowhere"}).code, 66);
}

// What a GPU gave, by hand.
class BenchReport : public testing::Test {
 protected:
  static constexpr const char* kAll =
      "tests-Norm passed 0 3 9\ntests-NormShift passed 0 3 9\ntests-Rope passed 0 3 9\n"
      "bench-op-bf16 passed 0 3 9\n";
  void SetUp() override {
    file("kernels",
         "norm norm_forward Norm\nnorm norm_backward Norm\nnorm rms_norm_forward RmsNorm\n"
         "rope rope_rotate Rope\ntoken_shift norm_shift_forward NormShift\n");
    tests("Norm", true);
    tests("NormShift", true);
    tests("Rope", true);
    file("bench-op-bf16.json", R"({"precision":"bf16","passes":[
        {"op":"layer_norm","shape":"[8, 4096, 2048]","pass":"forward","seconds":1e-4,"ratio":1.5,
         "kernels":["norm_forward"]},
        {"op":"norm_shift","shape":"s","pass":"forward","seconds":1e-4,"ratio":1.5,
         "kernels":["norm_shift_forward"]},
        {"op":"rms_norm","shape":"s","pass":"forward","seconds":1e-4,"ratio":1.5,
         "kernels":["rms_norm_forward"]},
        {"op":"rope","shape":"[8, 4096, 32, 64]","pass":"forward","seconds":1e-4,"ratio":2,
         "kernels":["rope_rotate"]}]})");
  }
  void file(const std::string& name, const std::string& text) { put(dir_, name, text); }
  void tests(const std::string& suite, bool pass) {
    file("tests-" + suite + ".json",
         str(R"({"testsuites":[{"name":")", suite, R"(","testsuite":[{"name":"a","result":"COMPLETED")",
             pass ? "" : R"(,"failures":[{"failure":"x"}])", "}]}]}"));
  }
  std::string folder() const { return dir_.path().string(); }
  // The page that follows from these stages.
  std::string page(const std::string& stages) {
    file("stages", stages);
    ProgramResult result = run_rookery({"bench", "report", folder()});
    EXPECT_EQ(result.code, 0) << result.err;
    result = run_rookery(
        {"bench", "report", "--page", folder() + "/kernels", "--from", folder() + "/gpu-check.json"});
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out;
  }
  void expect(const std::string& page, const std::string& text) const {
    EXPECT_NE(page.find(text), std::string::npos) << text << "\nin\n" << page;
  }

  TempDir dir_;
};

// What a GPU gave becomes "seen" only with tests that pass and a benchmark that launched the kernel.
TEST_F(BenchReport, SeenNeedsTestsAndABenchmark) {
  tests("Rope", false);
  const std::string text = page(kAll);
  expect(text, "| `norm_forward` | norm | yes | ");
  expect(text, "layer_norm forward bf16 0.100 ms (1.50 x floor)");
  expect(text, "| `norm_backward` | norm | not yet seen |");  // no benchmark
  expect(text, "| `rope_rotate` | rope | tests fail |");
  expect(text, "2 of 5 kernels were seen. compute-sanitizer was not installed");
  file("stages", "tests-Norm passed zero 3 9\n");
  const ProgramResult result = run_rookery({"bench", "report", folder()});
  EXPECT_EQ(result.code, 65);
  EXPECT_NE(result.err.find("BENCH-04"), std::string::npos) << result.err;
}

// Neither the tests of another kernel of the folder count, nor those whose name ends or begins like it.
TEST_F(BenchReport, OnlyTheOwnTestsCount) {
  expect(page(kAll), "| `rms_norm_forward` | norm | not yet seen |");
  tests("NormShift", false);
  const std::string text = page(kAll);
  expect(text, "| `norm_shift_forward` | token_shift | tests fail |");
  expect(text, "| `norm_forward` | norm | yes | ");
}

TEST_F(BenchReport, AStageThatFailsOrIsKilledYieldsNothing) {
  const std::string rest = std::string(kAll).substr(std::string(kAll).find('\n') + 1);
  expect(page("tests-Norm failed 1 3 9\n" + rest), "| `norm_forward` | norm | tests did not end |");
  file("tests-Norm.json", "{\"testsuites\":");  // killed while it wrote
  expect(page("tests-Norm out-of-time 137 9 9\n" + rest), "| `norm_forward` | norm | tests did not end |");
  expect(page("tests-Norm not-begun 0 0 0\n" + rest), "| `norm_forward` | norm | tests did not end |");
  tests("Norm", true);
  const std::string all(kAll);
  expect(page(all.substr(0, all.find("bench-op")) + "bench-op-bf16 failed 1 3 9\n"),
         "| `norm_forward` | norm | not yet seen |");
}

TEST_F(BenchReport, SeenNeedsASanitizerThatReportsNothing) {
  const char* clean = "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n";
  file("memcheck-bf16.txt", "========= ERROR SUMMARY: 0 errors\n");
  file("racecheck-bf16.txt", clean);
  const std::string memcheck = str(kAll, "memcheck-bf16 passed 0 3 9\n");
  std::string text = page(memcheck + "racecheck-bf16 passed 0 3 9\n");
  expect(text, "| `norm_forward` | norm | yes | ");
  expect(text, "compute-sanitizer (memcheck, racecheck) reported 0 errors.");
  text = page(memcheck + "racecheck-bf16 failed 9 3 9\n");
  expect(text, "| `norm_forward` | norm | sanitizer: errors |");
  expect(text, "0 of 5 kernels were seen. compute-sanitizer reported errors.");
  expect(page(memcheck + "racecheck-bf16 out-of-time 124 9 9\n"),
         "| `norm_forward` | norm | sanitizer did not end |");
  for (const char* summary : {"", "========= ERROR SUMMARY: 10 errors\n"}) {
    file("racecheck-bf16.txt", summary);
    expect(page(memcheck + "racecheck-bf16 passed 0 3 9\n"),
           "| `norm_forward` | norm | sanitizer did not end |");
  }
}

// The measured column of the predictions comes from a GPU's result, where its kernels were seen.
TEST_F(BenchReport, PredictionsTakeWhatWasMeasured) {
  tests("Rope", false);
  page(kAll);
  const std::vector<std::string> predict = {"bench", "op", "--predict", "layer_norm", "rope", "--from"};
  auto with = [&](const std::string& from) {
    std::vector<std::string> words = predict;
    words.push_back(from);
    return run_rookery(words);
  };
  const ProgramResult result = with(folder() + "/gpu-check.json");
  ASSERT_EQ(result.code, 0) << result.err;
  expect(result.out,
         "| layer_norm | [8, 4096, 2048] | forward | 268.44 M |  |  | 0.062 ms | copy | 0.100 ms |");
  expect(result.out, "| layer_norm | [8, 4096, 2048] | backward | 402.65 M |  |  | 0.094 ms | copy | |");
  expect(result.out, "| rope | [8, 4096, 32, 64] | forward | 268.44 M |  |  | 0.062 ms | copy | |");
  for (const char* text : {R"({"device":"cuda","passes":[1]})",
                           R"({"device":"cuda","kernels":[{"kernel":"x","seen":"yes"}]})"}) {
    file("other.json", text);
    EXPECT_EQ(with(folder() + "/other.json").code, 65) << text;
  }
}

TEST_F(BenchReport, AnotherFormIsRefused) {
  for (const char* text : {"", "[]", "1", "\"x\"", "null", R"({"device":"emul"})", "{}"}) {
    file("other.json", text);
    const ProgramResult result =
        run_rookery({"bench", "report", "--page", folder() + "/kernels", "--from", folder() + "/other.json"});
    EXPECT_EQ(result.code, 65) << text << result.err;
    EXPECT_NE(result.err.find("BENCH-04"), std::string::npos) << result.err;
  }
  for (const char* text :
       {R"({"device":"cuda","kernels":1})", R"({"device":"cuda","kernels":[1,{"kernel":2}]})",
        R"({"device":"cuda","kernels":[{"kernel":"norm_forward","seen":"yes"}]})"}) {
    file("other.json", text);
    const ProgramResult result =
        run_rookery({"bench", "report", "--page", folder() + "/kernels", "--from", folder() + "/other.json"});
    EXPECT_EQ(result.code, 0) << text << result.err;
    expect(result.out, "A GPU. 0 of 5 kernels were seen.");
  }
  file("stages", kAll);
  for (const char* text : {"[]", "3"})
    for (const char* name : {"tests-Norm.json", "bench-op-bf16.json"}) {
      SetUp();
      file(name, text);
      EXPECT_EQ(run_rookery({"bench", "report", folder()}).code, 65) << name << text;
    }
}

}  // namespace
}  // namespace rookery::test
