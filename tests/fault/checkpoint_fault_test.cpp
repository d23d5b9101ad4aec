// checkpoint_fault_test.cpp: real processes that are killed, or whose disk fails, at every single step of a
// save, of the replacing of a save and of retention. After each, the run holds a complete checkpoint, and the
// next start goes on.
#include <gtest/gtest.h>

#include <csignal>
#include <fstream>

#include "kernels/base/error.h"
#include "kernels/base/fault.h"
#include "tests/support/process.h"
#include "tests/support/sample_checkpoint.h"
#include "trainer/checkpoint/run_lock.h"

namespace rookery::checkpoint {
namespace {

using test::newest_sound_step;
using test::save_sample;

bool has_temporary(const fs::path& run) {
  for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
    if (entry.path().extension() == ".tmp") return true;
  return false;
}

// As a training loop does: a failed save leaves no temporary and the older checkpoints, and is tried again.
void save_with_retry(const fs::path& run, int64_t step) {
  const int64_t before = newest_sound_step(run);
  try {
    save_sample(run, step);
  } catch (const Error& e) {
    EXPECT_FALSE(has_temporary(run)) << e.what();
    EXPECT_GE(newest_sound_step(run), before) << e.what();
    save_sample(run, step);
  }
}

// One life of a trainer: start, two saves (one of a step that is there already), retention.
void live(const fs::path& run) {
  const RunLock lock(run);
  clean_leftovers(run, {});
  const int64_t start = newest_sound_step(run);
  ASSERT_GE(start, 1);
  save_with_retry(run, start + 1);
  retire(run, Retention{1, 0, 0});
  save_with_retry(run, start + 1);
}

TEST(CheckpointFaultTest, Lives) {
  const test::TempDir own;
  const char* given = std::getenv("ROOKERY_TEST_FOLDER");
  const fs::path run = given ? given : own.path();
  if (!given) save_sample(run, 1);
  live(run);
  EXPECT_GE(newest_sound_step(run), 2);
  long points = 0;
  for (const FaultPointUse& use : fault_points_seen()) points += use.count;
  std::ofstream(run / "points") << points;
}

struct Aftermath {
  test::Outcome outcome;
  int64_t step;     // of the newest checkpoint after the fault
  long points = 0;  // how many the life passed, if it came to its end
};

// A life with a fault in a run that has steps 1 and 2, then a look at what is left, then a life without a
// fault.
Aftermath live_with_fault(const std::string& fault) {
  const test::TempDir run(test::TempDir::Place::kMemory);
  save_sample(run.path(), 1);
  save_sample(run.path(), 2);
  const auto outcome = test::run_test_again(
      "CheckpointFaultTest.Lives", {{"ROOKERY_FAULT", fault}, {"ROOKERY_TEST_FOLDER", run.path().string()}});
  Aftermath a{outcome, newest_sound_step(run.path())};
  std::ifstream(run.path() / "points") >> a.points;
  EXPECT_GE(a.step, 2) << fault;
  live(run.path());
  EXPECT_EQ(newest_sound_step(run.path()), a.step + 1) << fault;
  EXPECT_EQ(list_steps(run.path()).size(), 1u) << fault;
  EXPECT_FALSE(has_temporary(run.path())) << fault;
  return a;
}

long points_of_a_life() {
  const Aftermath a = live_with_fault("");
  EXPECT_EQ(a.outcome.exit_code, 0);
  EXPECT_GT(a.points, 60);  // every write, fsync, rename and removal of two saves
  return a.points;
}

TEST(CheckpointFaultTest, KilledAtEveryPoint) {
  bool saw_old = false, saw_new = false;
  const long points = points_of_a_life();
  for (long k = 1; k <= points; ++k) {
    const Aftermath a = live_with_fault(str("*@", k, ":kill"));
    EXPECT_EQ(a.outcome.signal, SIGKILL) << k;
    (a.step == 2 ? saw_old : saw_new) = true;
  }
  EXPECT_TRUE(saw_old && saw_new);
}

TEST(CheckpointFaultTest, TheDiskFailsOnceAtEveryPoint) {
  const long points = points_of_a_life();
  for (long k = 1; k <= points; ++k) {
    const Aftermath a = live_with_fault(str("*@", k, k % 2 ? ":enospc" : ":eio"));
    EXPECT_EQ(a.outcome.signal, 0) << k;
  }
}

TEST(CheckpointFaultTest, ADiskThatStaysFullKeepsTheOldCheckpoint) {
  for (const char* fault :
       {"ckpt.shard.write:enospc", "ckpt.manifest.write:eio", "ckpt.shard.fsync:eio", "ckpt.rename:enospc"}) {
    const Aftermath a = live_with_fault(fault);
    EXPECT_EQ(a.outcome.exit_code, 1) << fault;
    EXPECT_EQ(a.step, 2) << fault;
  }
}

TEST(CheckpointFaultTest, ShortWritesAreCompletedAndWrongOnesNeverBecomeACheckpoint) {
  EXPECT_EQ(live_with_fault("ckpt.*:short").outcome.exit_code, 0);
  const Aftermath wrong = live_with_fault("ckpt.shard.write:flip");
  EXPECT_EQ(wrong.outcome.exit_code, 1);
  EXPECT_EQ(wrong.step, 2);
}

}  // namespace
}  // namespace rookery::checkpoint
