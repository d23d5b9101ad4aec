// checkpoint_cli_test.cpp: `rookery ckpt` through the real binary.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/program.h"
#include "tests/support/sample_checkpoint.h"

namespace rookery::checkpoint {
namespace {

using nlohmann::json;
using test::run_rookery;

struct SavedRun {
  test::TempDir dir;
  std::string path = dir.path().string();
  SavedRun() {
    for (const int64_t step : {10, 20, 30}) test::save_sample(dir.path(), step);
  }
};

TEST(CheckpointCliTest, ListShowsTheNewestFirst) {
  const SavedRun run;
  const auto plain = run_rookery({"ckpt", "list", run.path});
  EXPECT_EQ(plain.code, 0) << plain.err;
  EXPECT_LT(plain.out.find("\n30 "), plain.out.find("\n10 "));
  fs::remove(folder_of(run.dir.path(), 20) / "manifest.json");
  const json all = json::parse(run_rookery({"ckpt", "list", "--json", run.path}).out);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0]["step"], 30);
  EXPECT_EQ(all[0]["complete"], true);
  EXPECT_EQ(all[1]["complete"], false);
  EXPECT_EQ(run_rookery({"ckpt", "list", run.path + "/absent"}).code, 66);
}

TEST(CheckpointCliTest, ListOfARunWithoutCheckpointsSaysSo) {
  const test::TempDir dir;
  EXPECT_EQ(run_rookery({"ckpt", "list", dir.path().string()}).out,
            dir.path().string() + ": no checkpoints\n");
  EXPECT_EQ(json::parse(run_rookery({"ckpt", "list", "--json", dir.path().string()}).out), json::array());
}

TEST(CheckpointCliTest, InspectTellsStateAndTensors) {
  const SavedRun run;
  const auto plain = run_rookery({"ckpt", "inspect", run.path, "--tensors", "--config"});
  EXPECT_EQ(plain.code, 0) << plain.err;
  for (const char* part :
       {"step 30", "run-1", "opt/m", "param/blocks.0.att.key.weight", "[16,24]", "arch: rwkv6"})
    EXPECT_NE(plain.out.find(part), std::string::npos) << part << " in " << plain.out;
  const json j =
      json::parse(run_rookery({"ckpt", "inspect", "--json", folder_of(run.path, 10).string()}).out);
  EXPECT_EQ(j["step"], 10);
  EXPECT_EQ(j["state"]["tokens"], 20480);
  EXPECT_EQ(j["tensors"].size(), 9u);
}

TEST(CheckpointCliTest, VerifyFindsTheDamagedOne) {
  const SavedRun run;
  EXPECT_EQ(run_rookery({"ckpt", "verify", run.path}).code, 0);
  fs::resize_file(folder_of(run.path, 20) / "rank-00000.h5", 100);
  const auto damaged = run_rookery({"ckpt", "verify", run.path});
  EXPECT_EQ(damaged.code, 65);
  EXPECT_NE(damaged.out.find("step-00000030: sound"), std::string::npos) << damaged.out;
  EXPECT_NE(damaged.out.find("step-00000020: DAMAGED"), std::string::npos) << damaged.out;
  EXPECT_EQ(run_rookery({"ckpt", "verify", folder_of(run.path, 10).string()}).code, 0);
}

TEST(CheckpointCliTest, PruneKeepsWhatItIsToldTo) {
  const SavedRun run;
  const auto dry = run_rookery({"ckpt", "prune", run.path, "--keep-last", "1", "--dry-run"});
  EXPECT_EQ(dry.out, "would remove step-00000020\nwould remove step-00000010\n");
  EXPECT_EQ(list_steps(run.path).size(), 3u);
  EXPECT_EQ(run_rookery({"ckpt", "prune", run.path, "--keep-last", "1", "--keep-every", "20"}).out,
            "removed step-00000010\n");
  EXPECT_EQ(list_steps(run.path), (std::vector<int64_t>{30, 20}));
  // A spoilt newest one of the right size stops it: the older one may be the last good one.
  std::fstream(folder_of(run.path, 30) / "rank-00000.h5", std::ios::in | std::ios::out | std::ios::binary)
      .seekp(900)
      .put('x');
  EXPECT_EQ(run_rookery({"ckpt", "prune", run.path, "--keep-last", "1"}).code, 65);
  EXPECT_EQ(list_steps(run.path), (std::vector<int64_t>{30, 20}));
}

}  // namespace
}  // namespace rookery::checkpoint
