// train_fault_test.cpp: whole training runs, in real processes, that are killed or whose disk fails, at the
// fault points that an undisturbed run passes. Started again they end with the same parameters, moments and
// metrics, bit for bit. Killed at the first three uses of each point (the third save is the first that
// retires an old checkpoint) and at strides through the rest, which repeats them.
#include <gtest/gtest.h>

#include <set>

#include "kernels/base/rng.h"
#include "kernels/base/str.h"
#include "tests/support/tiny_run.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

using test::Trace;

class TrainFault : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    runs_ = std::make_unique<test::TinyRuns>();
    const auto clean = runs_->train("reference", {}, "*:list");
    ASSERT_EQ(clean.code, 0) << clean.err;
    reference_ = runs_->trace("reference");
    ASSERT_EQ(reference_.step, 12);
    ASSERT_EQ(reference_.records.size(), 18u);  // 12 steps, 3 evaluations, 3 looks at the norms
    std::istringstream lines(clean.err);
    const std::string mark = "fault point ";
    for (std::string line; std::getline(lines, line);)
      if (line.starts_with(mark)) points_.push_back(line.substr(mark.size()));
  }
  static void TearDownTestSuite() { runs_.reset(); }

  // Ends the run without a fault, and compares.
  static void expect_same_end(const std::string& run) {
    const auto again = runs_->train(run);
    ASSERT_EQ(again.code, 0) << again.err;
    EXPECT_EQ(runs_->trace(run), reference_);
    EXPECT_EQ(runs_->leftovers(run), std::vector<std::string>());
    fs::remove_all(runs_->path(run));
  }

  static inline std::unique_ptr<test::TinyRuns> runs_;
  static inline Trace reference_;
  static inline std::vector<std::string> points_;  // names, in the order in which a clean run passes them
};

// Where to kill: a point and its use, from 1. By use of its name and not by its place among all, since the
// log has a line more where a run had to wait for its data.
std::vector<std::pair<std::string, int>> kills(const std::vector<std::string>& points) {
  constexpr int kEach = 3;  // uses of each name: a save's points without, with and after retention
  std::map<std::string, int> seen;
  std::vector<std::pair<std::string, int>> chosen;
  for (const std::string& point : points) {
    const int use = ++seen[point];
    const int stride = point == "ckpt.shard.write" ? 97 : 5;  // a shard is written in hundreds of pieces
    if (use <= kEach || use % stride == 0) chosen.emplace_back(point, use);
  }
  std::erase_if(chosen, [&](const auto& kill) {  // the last line may be one of these
    return kill.first.starts_with("log.text") && kill.second == seen[kill.first];
  });
  return chosen;
}

TEST_F(TrainFault, KilledAtItsPointsItEndsTheSame) {
  std::set<int64_t> resumed_from;
  for (const auto& [point, use] : kills(points_)) {
    SCOPED_TRACE(str("killed at use ", use, " of ", point));
    const auto killed = runs_->train("killed", {}, str(point, "@", use, ":kill"));
    ASSERT_EQ(killed.code, -1) << killed.err;
    const auto steps = checkpoint::list_steps(runs_->path("killed"));
    resumed_from.insert(steps.empty() ? 0 : steps.front());
    ASSERT_NO_FATAL_FAILURE(expect_same_end("killed"));
  }
  EXPECT_EQ(resumed_from, (std::set<int64_t>{0, 3, 6, 9, 12}));
}

TEST_F(TrainFault, KilledTenTimesInARowItEndsTheSame) {
  const Philox random(1, stream_of("train fault test"));
  for (uint64_t i = 0; i < 10; ++i) {
    // At one of the first four steps of this life; its first save stands before the fourth.
    const auto step = 1 + random.bits(2 * i) % 4;
    const auto fault = random.bits(2 * i + 1) % 2 ? str("train.loss@", step, ":kill")
                                                  : str("log.metrics.write@", 1 + step, ":kill");
    const auto killed = runs_->train("again", {}, fault);
    ASSERT_EQ(killed.code, -1) << fault << killed.err;
  }
  EXPECT_GE(runs_->trace("again").step, 3);  // some got as far as a save, and none to the end
  EXPECT_LT(runs_->trace("again").step, 12);
  expect_same_end("again");
}

TEST_F(TrainFault, AFullDiskDelaysASaveAndChangesNothing) {
  for (const char* fault :
       {"ckpt.shard.write@1:enospc", "ckpt.shard.fsync@2:eio", "ckpt.manifest.open@1:enospc",
        "ckpt.manifest.write@2:eio", "ckpt.rename@3:enospc"}) {
    const auto run = runs_->train("full", {}, fault);
    EXPECT_EQ(run.code, 0) << fault << run.err;
    EXPECT_NE(run.err.find("saving failed (1 of 3)"), std::string::npos) << fault << run.err;
    EXPECT_EQ(runs_->trace("full"), reference_) << fault;
    EXPECT_EQ(runs_->leftovers("full"), std::vector<std::string>()) << fault;
    fs::remove_all(runs_->path("full"));
  }
}

TEST_F(TrainFault, WhatFailsAfterTheCheckpointStandsIsAWarning) {
  for (const char* fault : {"ckpt.latest.write:enospc", "ckpt.latest.rename:eio", "ckpt.retire.remove:eio"}) {
    const auto run = runs_->train("tidy", {}, fault);
    EXPECT_EQ(run.code, 0) << fault << run.err;
    EXPECT_NE(run.err.find("warning: "), std::string::npos) << run.err;
    EXPECT_EQ(runs_->trace("tidy"), reference_) << fault;
    expect_same_end("tidy");
  }
}

TEST_F(TrainFault, AfterThreeFailedSavesItLeavesWithTheLastGoodCheckpoint) {
  const auto run = runs_->train(
      "stuck", {}, "ckpt.manifest.write@2:enospc,ckpt.manifest.write@3:eio,ckpt.manifest.write@4:enospc");
  EXPECT_EQ(run.code, 74) << run.err;
  EXPECT_NE(run.err.find("saving failed (2 of 3)"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("error[TRAIN-04]"), std::string::npos) << run.err;
  EXPECT_EQ(checkpoint::list_steps(runs_->path("stuck")), std::vector<int64_t>{3});
  EXPECT_EQ(checkpoint::verify(runs_->checkpoint("stuck", 3)), std::vector<std::string>());
  expect_same_end("stuck");
}

TEST_F(TrainFault, ADiskThatTakesNoLogsCostsRecordsOnly) {
  const auto run = runs_->train("mute", {}, "log.text.write:enospc,log.tensorboard.write@9:eio");
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_NE(run.err.find("a log file cannot be written"), std::string::npos) << run.err;
  EXPECT_EQ(runs_->trace("mute"), reference_);
}

}  // namespace
}  // namespace rookery
