// run_control_test.cpp: signals, the STOP and SAVE files, the time budget, the run folder and env.json.
#include "trainer/loop/signals.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/program.h"
#include "trainer/loop/environment.h"
#include "trainer/loop/metrics.h"

namespace rookery::loop {
namespace {

using test::fs::path;

RunRequest after_signal(int number, bool interactive = false) {
  const test::TempDir dir;
  const SignalGuard guard(interactive);
  RunControl control(dir.path(), guard, 0);
  const RunRequest before = control.poll(1, 1);
  EXPECT_FALSE(before.save || before.stop);
  ::raise(number);
  return control.poll(1, 1);
}

TEST(SignalTest, TheFirstAsksToSaveAndStop) {
  for (const auto& [number, name] : {std::pair(SIGTERM, "SIGTERM"), {SIGUSR1, "SIGUSR1"}}) {
    const RunRequest request = after_signal(number);
    EXPECT_TRUE(request.save && request.stop);
    EXPECT_EQ(request.code, ExitCode::kStopped);
    EXPECT_EQ(request.reason, name);
  }
  const RunRequest interrupt = after_signal(SIGINT);
  EXPECT_TRUE(interrupt.save && interrupt.stop);
  EXPECT_EQ(interrupt.code, ExitCode::kInterrupted);
}

TEST(SignalTest, HangupStopsOnlyAnInteractiveRun) {
  EXPECT_FALSE(after_signal(SIGHUP, false).stop);
  EXPECT_TRUE(after_signal(SIGHUP, true).stop);
}

TEST(SignalTest, ABrokenPipeIsIgnored) { EXPECT_FALSE(after_signal(SIGPIPE).stop); }

TEST(SignalTest, TheSecondLeavesAtOnce) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    const SignalGuard guard(false);
    ::raise(SIGTERM);
    ::raise(SIGINT);
    ::_exit(0);
  }
  EXPECT_EQ(test::wait_for(pid).exit_code, 128 + SIGINT);
}

TEST(SignalTest, HandlersAreRestored) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    { const SignalGuard guard(false); }
    ::raise(SIGTERM);
    ::_exit(0);
  }
  EXPECT_EQ(test::wait_for(pid).signal, SIGTERM);
}

TEST(RunControlTest, SaveAndStopFilesAreObeyedOnceAndRemoved) {
  const test::TempDir dir;
  const SignalGuard guard(false);
  RunControl control(dir.path(), guard, 0);
  test::put(dir, "SAVE", "");
  RunRequest request = control.poll(1, 1);
  EXPECT_TRUE(request.save);
  EXPECT_FALSE(request.stop);
  EXPECT_FALSE(test::fs::exists(dir.path() / "SAVE"));
  EXPECT_FALSE(control.poll(1, 1).save);
  test::put(dir, "STOP", "");
  request = control.poll(1, 1);
  EXPECT_TRUE(request.save && request.stop);
  EXPECT_EQ(request.code, ExitCode::kStopped);
  EXPECT_EQ(request.reason, "RUN/STOP");
  EXPECT_FALSE(test::fs::exists(dir.path() / "STOP"));
  EXPECT_FALSE(control.poll(1, 1).stop);
}

TEST(RunControlTest, ASwitchThatCannotBeRemovedIsObeyedOnce) {
  const test::TempDir dir;
  const SignalGuard guard(false);
  RunControl control(dir.path(), guard, 0);
  test::put(dir, "SAVE/full", "");  // a folder that is not empty
  EXPECT_TRUE(control.poll(1, 1).save);
  EXPECT_FALSE(control.poll(1, 1).save);
  test::fs::remove_all(dir.path() / "SAVE");
  EXPECT_FALSE(control.poll(1, 1).save);
  test::put(dir, "SAVE", "");
  EXPECT_TRUE(control.poll(1, 1).save);
}

TEST(RunControlTest, TheTimeBudgetLeavesRoomForAStepAndASave) {
  const test::TempDir dir;
  const SignalGuard guard(false);
  double now = 1000;
  RunControl control(dir.path(), guard, 14100, [&] { return now; });
  now = 1000 + 14100 - 2 * (3 + 60) - 1;
  EXPECT_FALSE(control.poll(3, 60).stop);
  now += 1;
  const RunRequest request = control.poll(3, 60);
  EXPECT_TRUE(request.save && request.stop);
  EXPECT_EQ(request.code, ExitCode::kStopped);
  EXPECT_EQ(request.reason, "max-time 3h55m");
}

TEST(EnvironmentTest, RunFolderIsMadeOnceAndKept) {
  const test::TempDir dir;
  const path run = dir.path() / "a" / "run";
  create_run_folder(run);
  std::ofstream(run / "eval" / "kept") << "x";
  create_run_folder(run);
  for (const char* name : {"checkpoints", "tb", "eval", "samples"})
    EXPECT_TRUE(test::fs::is_directory(run / name));
  EXPECT_TRUE(test::fs::exists(run / "eval" / "kept"));
  test::put(dir, "file", "");
  EXPECT_THROW(create_run_folder(dir.path() / "file" / "run"), Error);
}

TEST(EnvironmentTest, TellsHowTheRunWasStarted) {
  const test::TempDir dir;
  ::setenv("ROOKERY_TEST_NOTE", "seen", 1);
  const auto write = [&] {
    write_environment(dir.path(), {"rookery", "train", "bad\xff.yaml"},
                      {{"rookery", "1.2.3"}, {"HDF5", "1.10.8"}});
    return nlohmann::json::parse(test::slurp(dir.path() / "env.json"));
  };
  const auto first = write();
  EXPECT_EQ(first["restarts"], 0);
  EXPECT_EQ(first["versions"]["HDF5"], "1.10.8");
  EXPECT_EQ(first["command_line"][1], "train");
  EXPECT_EQ(first["variables"]["ROOKERY_TEST_NOTE"], "seen");
  EXPECT_FALSE(first["variables"].contains("PATH"));
  EXPECT_GE(first["cores"].get<int>(), 1);
  EXPECT_GT(first["memory_bytes"].get<int64_t>(), 1 << 20);
  EXPECT_FALSE(first["host"].get<std::string>().empty());
  EXPECT_EQ(write()["restarts"], 1);
  EXPECT_EQ(write()["restarts"], 2);
  test::put(dir, "env.json", "{broken");
  EXPECT_EQ(write()["restarts"], 0);
  ::unsetenv("ROOKERY_TEST_NOTE");
}

TEST(EnvironmentTest, PeakMemoryCountsWhatIsTouched) {
  const int64_t before = peak_memory_bytes();
  const std::string block(64 << 20, 'x');
  EXPECT_GE(peak_memory_bytes() + (8 << 20), int64_t(block.size()));
  EXPECT_GE(peak_memory_bytes(), before);
}

}  // namespace
}  // namespace rookery::loop
