// compare_test.cpp: `rookery compare` through the real binary, on runs that consist of what it reads: a
// configuration and the records of evaluations.
#include <gtest/gtest.h>

#include "kernels/base/str.h"
#include "tests/support/program.h"

namespace rookery::test {
namespace {

class Compare : public testing::Test {
 protected:
  Compare() {
    run("a1", "rwkv6", eval(1, 100, "5.0") + eval(2, 200, "4.0"));
    run("a2", "rwkv6", eval(1, 100, "5.2") + eval(2, 200, "4.2"));
    run("b", "rwkv7", eval(2, 200, "3.5, \"accuracy\": 0.75") + eval(2, 200, "4.5, \"accuracy\": 0.25"));
  }
  static std::string eval(int step, int tokens, const std::string& loss) {
    return str("{\"event\": \"eval\", \"step\": ", step, ", \"tokens\": ", tokens, ", \"loss\": ", loss,
               "}\n");
  }
  void run(const std::string& name, const std::string& arch, const std::string& records) const {
    put(dir_, name + "/config.resolved.yaml",
        str("model: {arch: ", arch, ", num_layers: 2, hidden_size: 64, vocab_size: 100}\n",
            "data: {tokenizer: none, sources: [{path: a.h5}]}\nrecipe: {kind: pretrain, max_steps: 1}\n"));
    put(dir_, name + "/metrics.jsonl", "{\"event\": \"start\", \"step\": 0, \"schema\": 1}\n" + records);
  }
  std::string path(const std::string& name) const { return (dir_.path() / name).string(); }
  void refused(const std::vector<std::string>& words, int code, const std::string& id) const {
    std::vector<std::string> all{"compare"};
    all.insert(all.end(), words.begin(), words.end());
    const auto result = run_rookery(all);
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_NE(result.err.find("error[" + id + "]"), std::string::npos) << result.err;
  }
  TempDir dir_;
};

// Means over sets and seeds with the deviation of a sample; a model's tensors without effect do not count.
TEST_F(Compare, SeedsOfOneNameAreOneRow) {
  const auto result =
      run_rookery({"compare", "finch=" + path("a1"), "goose=" + path("b"), "finch=" + path("a2"), "--out",
                   path("table.md"), "--svg", path("loss.svg")});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(slurp(path("table.md")), result.out);
  const auto has = [&](const std::string& text) {
    EXPECT_NE(result.out.find(text), std::string::npos) << text << " in\n" << result.out;
  };
  has("| finch | 178944 | 172544 | 2 | 200 | 4.1000 ± 0.1414 | n/a |");
  has("| goose | 142400 | 136000 | 1 | 200 | 4.0000 | 0.5000 |");
  EXPECT_EQ(result.out.find("finch"), result.out.rfind("finch"));
  const std::string svg = slurp(path("loss.svg"));
  EXPECT_NE(svg.find("Validation loss"), std::string::npos);
  EXPECT_NE(svg.find("goose"), std::string::npos);
  refused({"finch=" + path("a1"), "--out", path("table.md")}, 73, "COMPARE-04");
  EXPECT_EQ(run_rookery({"compare", "x=" + path("a1"), "--out", path("table.md"), "--force"}).code, 0);
}

TEST_F(Compare, ALossThatIsNotFiniteIsShownAsSuch) {
  run("nan", "rwkv6", eval(1, 100, "5.0") + eval(2, 200, "null"));
  const auto result = run_rookery({"compare", "x=" + path("nan"), "--svg", path("x.svg")});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("| n/a |"), std::string::npos) << result.out;
}

TEST_F(Compare, RunsThatAreNoneAreRefused) {
  refused({path("a1")}, 64, "COMPARE-02");
  refused({"=" + path("a1")}, 64, "COMPARE-02");
  refused({"x=" + path("a1"), "x=" + path("b")}, 65, "COMPARE-03");
  refused({"x=" + path("absent")}, 66, "IO-07");
  run("none", "rwkv6", "{\"event\": \"train\", \"step\": 1}\n");
  refused({"x=" + path("none")}, 65, "COMPARE-01");
  for (const char* tokens : {"\"many\"", "null", "1.5"}) {
    run("odd", "rwkv6", str("{\"event\": \"eval\", \"step\": 1, \"loss\": 3, \"tokens\": ", tokens, "}\n"));
    refused({"x=" + path("odd")}, 65, "COMPARE-05");
  }
}

}  // namespace
}  // namespace rookery::test
