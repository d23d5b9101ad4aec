// gpu_check_test.cpp: scripts/gpu_check on emulated kernels from its first stage to its report, what it says
// without a GPU, and the page that is made from it.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "kernels/cuda/device.h"
#include "tests/support/program.h"

namespace rookery::test {
namespace {

// The script, with the programs of this build.
ProgramResult gpu_check(std::vector<std::string> words) {
  const char* program = std::getenv("ROOKERY_BIN");
  const fs::path build = fs::path(program ? program : "build/bin/rookery").parent_path().parent_path();
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
  }
  for (const char* name : {"tests-ops_test", "tokens", "train-finch-bf16", "train-goose-seed",
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
  const std::string text = slurp(dir.path() / "gpu-check.md");
  EXPECT_NE(text.find("| `activation_forward` | activation | not yet seen |"), std::string::npos) << text;
}

TEST(GpuCheck, ThePageIsThatOfTheKernelsInTheSources) {
  const ProgramResult result = gpu_check({"--page"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(slurp("docs/gpu-results.md"), result.out) << "scripts/gpu_check --page > docs/gpu-results.md";
}

TEST(GpuCheck, MistakesAreRefused) {
  EXPECT_EQ(gpu_check({"--device", "tpu"}).code, 64);
  EXPECT_EQ(gpu_check({"--minutes", "x"}).code, 64);
  EXPECT_EQ(gpu_check({"--bundle", "/nowhere"}).code, 66);
}

// What a GPU gave becomes "seen" only with tests that pass and a benchmark that launched the kernel.
TEST(BenchReport, SeenNeedsTestsAndABenchmark) {
  TempDir dir;
  put(dir, "kernels", "norm norm_forward\nnorm norm_backward\nrope rope_rotate\n");
  put(dir, "stages", "tests-ops_test 0 3\n");
  put(dir, "tests-ops_test.json",
      R"({"testsuites":[{"name":"Norm","testsuite":[{"name":"a","result":"COMPLETED"}]},
          {"name":"Rope","testsuite":[{"name":"b","result":"COMPLETED","failures":[{"failure":"x"}]}]}]})");
  put(dir, "bench-op-bf16.json",
      R"({"precision":"bf16","passes":[
          {"op":"layer_norm","pass":"forward","seconds":1e-4,"ratio":1.5,"kernels":["norm_forward"]},
          {"op":"rope","pass":"forward","seconds":1e-4,"ratio":2,"kernels":["rope_rotate"]}]})");
  const std::string folder = dir.path().string();
  ProgramResult result = run_rookery({"bench", "report", folder});
  ASSERT_EQ(result.code, 0) << result.err;
  result =
      run_rookery({"bench", "report", "--page", folder + "/kernels", "--from", folder + "/gpu-check.json"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("| `norm_forward` | norm | yes | "), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("layer_norm forward bf16 0.100 ms (1.50 x floor)"), std::string::npos);
  EXPECT_NE(result.out.find("| `norm_backward` | norm | not yet seen |"), std::string::npos);
  EXPECT_NE(result.out.find("| `rope_rotate` | rope | tests fail |"), std::string::npos);
  put(dir, "stages", "tests-ops_test zero 3\n");
  result = run_rookery({"bench", "report", folder});
  EXPECT_EQ(result.code, 65);
  EXPECT_NE(result.err.find("BENCH-04"), std::string::npos) << result.err;
}

}  // namespace
}  // namespace rookery::test
