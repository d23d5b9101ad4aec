// prepare_fault_test.cpp: `rookery data prepare` killed, or out of disk, at its fault points, with real
// processes: a final name never holds a part, and the same command started again ends with the same bytes as
// an undisturbed run.
#include <gtest/gtest.h>

#include <map>

#include "tests/support/program.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;
using test::put;
using Files = std::map<std::string, std::string>;

class PrepareFault : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::string vocab;
    for (int i = 0; i < 256; ++i) {
      char line[32];
      std::snprintf(line, sizeof line, "%d b'\\x%02x' 1\n", i + 1, i);
      vocab += line;
    }
    put(folder_, "vocab.txt", vocab);
    for (int file = 0; file < 8; ++file) {
      std::string jsonl;
      for (int i = 0; i < 30; ++i) {
        jsonl += "{\"text\":\"file " + std::to_string(file) + " document " + std::to_string(i % 25) + "\"}\n";
        if (i % 10 == 5) jsonl += "broken\n";
      }
      put(folder_, "in/" + std::to_string(file) + ".jsonl", jsonl);
    }
    reference_ = (run("ref"), files("ref"));
    ASSERT_EQ(reference_.size(), GetParam() == std::string("hdf5") ? 2u : 4u);
  }

  test::ProgramResult run(const std::string& out, const std::string& fault = "") {
    return test::run_rookery(
        {"data",           "prepare",   "--tokenizer", path("vocab.txt"), "--in",
         path("in"),       "--out",     path(out),     "--format",        GetParam(),
         "--val-fraction", "0.2",       "--dedup",     "exact",           "--on-bad-record",
         "skip",           "--workers", "2",           "--commit-bytes",  "1"},
        {{"ROOKERY_FAULT", fault}});
  }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  // What stands under final names that begin with `out`, by the rest of the name.
  Files files(const std::string& out) const {
    Files result;
    for (const auto& entry : fs::directory_iterator(folder_.path())) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with(out + ".") && !entry.is_directory())
        result[name.substr(out.size())] = test::slurp(entry.path());
    }
    return result;
  }
  bool left_work(const std::string& out) const {
    for (const auto& entry : fs::directory_iterator(folder_.path()))
      if (entry.is_directory() && entry.path().filename().string().starts_with(out + ".")) return true;
    return false;
  }
  // Each final file is whole, and an .idx never stands without its .bin.
  void expect_no_parts(const Files& found) const {
    for (const auto& [name, content] : found) EXPECT_TRUE(content == reference_.at(name)) << name;
    for (const auto& [idx, bin] : {std::pair(".idx", ".bin"), std::pair(".val.idx", ".val.bin")})
      if (found.count(idx)) {
        EXPECT_TRUE(found.count(bin));
      }
  }
  // Starts the command again. All may be done already, when the kill came after the last rename: then it says
  // so.
  void expect_done(const std::string& out) {
    const bool was_done = files(out) == reference_;
    auto again = run(out);
    EXPECT_TRUE(again.code == 0 || (was_done && again.code == 73)) << again.code << ": " << again.err;
    EXPECT_TRUE(files(out) == reference_);
    EXPECT_FALSE(left_work(out));
  }

  test::TempDir folder_;
  Files reference_;
};

TEST_P(PrepareFault, KilledAnywhereItGoesOnToTheSameBytes) {
  int kills = 0;
  for (int point = 1;; point += 9) {
    SCOPED_TRACE("killed at point " + std::to_string(point));
    const std::string out = "k" + std::to_string(point);
    auto result = run(out, "*@" + std::to_string(point) + ":kill");
    if (result.code == 0) break;  // fewer points than that: it ran through
    ASSERT_EQ(result.code, -1) << result.err;
    ++kills;
    expect_no_parts(files(out));
    expect_done(out);
  }
  EXPECT_GT(kills, 20);
}

TEST_P(PrepareFault, KilledAgainAndAgainItStillEnds) {
  int kills = 0;
  while (files("again") != reference_) {
    auto result = run("again", "*@90:kill");
    ASSERT_TRUE(result.code == 0 || result.code == -1) << result.err;
    expect_no_parts(files("again"));
    ASSERT_LT(++kills, 10);  // each run gets a little further
  }
  EXPECT_GT(kills, 2);  // the last of these runs may have ended well
  expect_done("again");
}

TEST_P(PrepareFault, FailingDisksGiveTheirCodeAndNoParts) {
  int number = 0;
  for (const char* fault :
       {"data.tokens.write@1:enospc", "data.tokens.write@5:eio", "data.tokens.fsync@4:eio",
        "data.prepare.write@2:enospc", "data.tokens.rename@1:eio", "data.prepare.rename@1:eio"}) {
    SCOPED_TRACE(fault);
    const std::string out = "d" + std::to_string(number++);
    auto result = run(out, fault);
    EXPECT_EQ(result.code, 74) << result.err;
    EXPECT_NE(result.err.find(out + "."), std::string::npos) << result.err;  // the file is named
    expect_no_parts(files(out));
    expect_done(out);
  }
  auto shortened = run("s", "data.tokens.write:short");  // every write in two halves
  EXPECT_EQ(shortened.code, 0) << shortened.err;
  EXPECT_TRUE(files("s") == reference_);
}

INSTANTIATE_TEST_SUITE_P(Formats, PrepareFault, testing::Values("hdf5", "binidx"),
                         [](const auto& format) { return std::string(format.param); });

}  // namespace
}  // namespace rookery
