// train_command_test.cpp: `rookery train` as its user and a scheduler meet it: signals, RUN/STOP and
// RUN/SAVE, time limits, two processes in one run, resuming after changes, steps that are not finite, bad
// data. Kills and full disks: tests/fault/train_fault_test.cpp.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <csignal>

#include "kernels/base/str.h"
#include "kernels/cuda/device.h"
#include "tests/support/tiny_run.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

using test::Trace;

class TrainCommand : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    runs_ = std::make_unique<test::TinyRuns>();
    const auto clean = runs_->train("reference", {"checkpoint.keep_last=9"});
    ASSERT_EQ(clean.code, 0) << clean.err;
    reference_ = runs_->trace("reference");
    ASSERT_EQ(reference_.step, 12);
  }
  static void TearDownTestSuite() { runs_.reset(); }

  static std::string path(const std::string& name) { return runs_->path(name); }
  static void expect_same_end(const std::string& run, const std::vector<std::string>& more = {}) {
    const auto again = runs_->train(run, more);
    ASSERT_EQ(again.code, 0) << again.err;
    EXPECT_EQ(runs_->trace(run), reference_);
  }
  static std::vector<int64_t> steps(const std::string& run) { return checkpoint::list_steps(path(run)); }
  static bool sound(const std::string& run, int64_t step) {
    return checkpoint::verify(runs_->checkpoint(run, step)).empty();
  }
  static bool logs(const std::string& run, const std::string& text) {
    return test::slurp(path(run + "/train.log")).find(text) != std::string::npos;
  }
  static bool says(const test::ProgramResult& result, const std::string& text) {
    return result.err.find(text) != std::string::npos;
  }
  // A copy of the reference as `run`, as it was after `step`.
  static void copy_at(const std::string& run, int64_t step) {
    fs::copy(path("reference"), path(run), fs::copy_options::recursive);
    for (const int64_t later : steps(run))
      if (later > step) fs::remove_all(runs_->checkpoint(run, later));
  }

  static inline std::unique_ptr<test::TinyRuns> runs_;
  static inline Trace reference_;
};

TEST_F(TrainCommand, TheSameConfigurationTwiceGivesTheSameBits) { expect_same_end("twice"); }

// Slices of one thread that lie in each other: all that begin in one end in it.
TEST_F(TrainCommand, ProfileShowsStepsPhasesOperationsAndKernels) {
  expect_same_end("profiled", {"--profile=2"});
  EXPECT_TRUE(logs("profiled", "profile of 2 steps in "));
  const auto trace = nlohmann::json::parse(test::slurp(path("profiled/trace.json")));
  struct Slice {
    std::string name, kind;
    double begin, end;
    bool holds(const Slice& s) const { return begin <= s.begin && s.end <= end; }
  };
  std::vector<Slice> slices;
  size_t memory = 0;
  double largest_step = 0;
  for (const auto& e : trace["traceEvents"]) {
    if (e["ph"] == "C") {
      ++memory;
      EXPECT_GT(e["args"]["persistent_bytes"].get<double>(), 0);
      largest_step = std::max(largest_step, e["args"]["step_bytes"].get<double>());
    }
    if (e["ph"] != "X") continue;
    const double begin = e["ts"], length = e["dur"];
    EXPECT_GE(length, 0);
    slices.push_back({e["name"], e["cat"], begin, begin + length});
    if (e["cat"] == "forward" || e["cat"] == "backward") {
      EXPECT_NE(e["args"]["shapes"].get<std::string>().find("->"), std::string::npos) << e;
    }
  }
  EXPECT_GT(memory, slices.size());
  EXPECT_GT(largest_step, 0);
  auto of = [&](const std::string& kind, const std::string& name) {
    std::vector<Slice> found;
    for (const Slice& s : slices)
      if (s.kind == kind && (name.empty() || s.name == name)) found.push_back(s);
    return found;
  };
  const auto steps = of("phase", "step");
  ASSERT_EQ(steps.size(), 2u);
  // Two micro-batches of 2 sequences a step.
  for (const auto& [phase, times] : {std::pair<const char*, size_t>{"data", 1},
                                     {"upload", 2},
                                     {"forward", 2},
                                     {"backward", 2},
                                     {"optimizer", 1}}) {
    const auto found = of("phase", phase);
    EXPECT_EQ(found.size(), 2 * times) << phase;
    for (const Slice& s : found) EXPECT_TRUE(steps[0].holds(s) != steps[1].holds(s)) << phase;
  }
  for (const char* kind : {"forward", "backward"}) {
    const auto phases = of("phase", kind), operations = of(kind, "");
    for (const char* name : {"embedding", "layer_norm", "ddlerp", "linear", "wkv6", "cross_entropy"})
      EXPECT_FALSE(of(kind, name).empty()) << kind << " " << name;
    for (const Slice& phase : phases) {
      double sum = 0;
      for (const Slice& s : operations)
        if (phase.holds(s)) sum += s.end - s.begin;
      EXPECT_GT(sum, 0);
      EXPECT_LE(sum, (phase.end - phase.begin) * (1 + 1e-9)) << kind;
    }
    for (const Slice& s : operations)
      EXPECT_EQ(std::count_if(phases.begin(), phases.end(), [&](const Slice& p) { return p.holds(s); }), 1)
          << kind << " " << s.name;
  }
  const auto saves = of("phase", "save");  // after step 3
  ASSERT_EQ(saves.size(), 1u);
  EXPECT_TRUE(steps[0].end <= saves[0].begin && saves[0].end <= steps[1].begin);
  for (const Slice& s : of("kernel", "wkv6_backward")) {
    const auto around = of("backward", "wkv6");
    EXPECT_TRUE(std::any_of(around.begin(), around.end(), [&](const Slice& o) { return o.holds(s); }));
  }
  EXPECT_EQ(of("kernel", "wkv6_forward").size(), 4u);
}

TEST_F(TrainCommand, ProfileOfAShortRunOrAFullDiskHoldsNothingUp) {
  EXPECT_FALSE(fs::exists(path("reference/trace.json")));
  const auto short_run = runs_->train("short", {"--profile", "recipe.max_steps=2", "optim.warmup_steps=1"});
  EXPECT_EQ(short_run.code, 0) << short_run.err;
  EXPECT_TRUE(logs("short", "--profile: found 2 steps"));
  EXPECT_FALSE(fs::exists(path("short/trace.json")));
  // The trace of a run's end has its last save.
  const auto whole = runs_->train("whole", {"--profile", "recipe.max_steps=4"});
  EXPECT_EQ(whole.code, 0) << whole.err;
  const auto trace = nlohmann::json::parse(test::slurp(path("whole/trace.json")));
  std::string last;
  for (const auto& e : trace["traceEvents"])
    if (e["ph"] == "X" && e["cat"] == "phase") last = e["name"];
  EXPECT_EQ(last, "save");
  const auto full = runs_->train("full", {"--profile", "recipe.max_steps=4"}, "run.trace.write:enospc");
  EXPECT_EQ(full.code, 0) << full.err;
  EXPECT_TRUE(logs("full", "--profile: "));
  EXPECT_EQ(runs_->train("none", {"--profile=0"}).code, 64);
}

TEST_F(TrainCommand, SignalsSaveAndLeave) {
  for (const auto& [number, code] : {std::pair{SIGTERM, 75}, {SIGUSR1, 75}, {SIGINT, 130}}) {
    const std::string run = str("signal", number);
    auto process = runs_->pause(run, "train.loss@5:stop");
    ASSERT_TRUE(process.stopped());
    process.signal(number);
    process.go_on();
    EXPECT_EQ(process.outcome().exit_code, code);
    EXPECT_EQ(steps(run), (std::vector<int64_t>{5, 3}));
    expect_same_end(run);
  }
}

TEST_F(TrainCommand, ASecondSignalLeavesAtOnceAndBreaksNothing) {
  // Stopped in step 5, then again within the save that the first signal asked for.
  auto process = runs_->pause("twosignals", "train.loss@5:stop,ckpt.manifest.write@2:stop");
  ASSERT_TRUE(process.stopped());
  process.signal(SIGTERM);
  process.go_on();
  ASSERT_TRUE(process.stopped());
  process.signal(SIGTERM);
  process.go_on();
  EXPECT_EQ(process.outcome().exit_code, 128 + SIGTERM);
  EXPECT_EQ(steps("twosignals"), std::vector<int64_t>{3});
  EXPECT_TRUE(sound("twosignals", 3));
  expect_same_end("twosignals");
}

TEST_F(TrainCommand, FilesInTheRunFolderStopAndSave) {
  auto process = runs_->pause("files", "train.loss@4:stop,train.loss@8:stop");
  put(runs_->folder(), "files/SAVE", "");
  process.go_on();
  EXPECT_FALSE(fs::exists(path("files/SAVE")));
  EXPECT_TRUE(sound("files", 4));
  put(runs_->folder(), "files/STOP", "");
  process.go_on();
  EXPECT_EQ(process.outcome().exit_code, 75);
  EXPECT_FALSE(fs::exists(path("files/STOP")));
  EXPECT_EQ(steps("files").front(), 8);
  expect_same_end("files");
}

TEST_F(TrainCommand, ATimeLimitLeavesBeforeItIsOver) {
  const auto limited = runs_->train("limit", {"--max-time", "2s"}, "train.loss:delay=300");
  EXPECT_EQ(limited.code, 75) << limited.err;
  EXPECT_TRUE(says(limited, "max-time 2s")) << limited.err;
  ASSERT_FALSE(steps("limit").empty());
  EXPECT_LT(steps("limit").front(), 7);  // 7 x 0.3 s is over the limit
  expect_same_end("limit");
}

TEST_F(TrainCommand, OneProcessPerRunFolder) {
  auto process = runs_->pause("busy", "train.loss@5:stop");
  const auto second = runs_->train("busy");
  EXPECT_EQ(second.code, 73);
  char host[256] = {};
  ASSERT_EQ(::gethostname(host, sizeof host - 1), 0);
  EXPECT_TRUE(says(second, str("process ", process.pid(), " on ", host))) << second.err;
  process.go_on();
  EXPECT_EQ(process.outcome().exit_code, 0);
  EXPECT_EQ(runs_->trace("busy"), reference_);
}

TEST_F(TrainCommand, FreshNeedsForceWhereThereIsARun) {
  copy_at("fresh", 12);
  const auto refused = runs_->train("fresh", {"--fresh"});
  EXPECT_EQ(refused.code, 73);
  EXPECT_TRUE(says(refused, "--force")) << refused.err;
  EXPECT_EQ(steps("fresh"), steps("reference"));
  const auto typo =
      runs_->train("fresh", {"--fresh", "--force", "data.sources[0].path=" + path("absent.h5")});
  EXPECT_EQ(typo.code, 66);
  EXPECT_EQ(steps("fresh"), steps("reference"));  // nothing is removed for a run that cannot begin
  EXPECT_EQ(runs_->train("fresh", {"--fresh", "--resume-from", "3", "--force"}).code, 64);
  const auto anew = runs_->train("fresh", {"--fresh", "--force"});
  EXPECT_EQ(anew.code, 0) << anew.err;
  EXPECT_FALSE(says(anew, "resuming")) << anew.err;
  EXPECT_EQ(runs_->trace("fresh"), reference_);
  EXPECT_EQ(runs_->train("elsewhere", {"--fresh"}).code, 0);
}

TEST_F(TrainCommand, ResumeFromAnOlderStep) {
  copy_at("rewind", 12);
  const auto refused = runs_->train("rewind", {"--resume-from", "3"});
  EXPECT_EQ(refused.code, 73);
  EXPECT_TRUE(says(refused, "up to step 12")) << refused.err;
  const auto rewound = runs_->train("rewind", {"--resume-from", "3", "--force"});
  EXPECT_EQ(rewound.code, 0) << rewound.err;
  EXPECT_TRUE(says(rewound, "at step 3")) << rewound.err;
  EXPECT_EQ(runs_->trace("rewind"), reference_);
  // A checkpoint of another run, by its folder.
  const auto other = runs_->train("other", {"--resume-from", runs_->checkpoint("reference", 9).string()});
  EXPECT_EQ(other.code, 0) << other.err;
  EXPECT_EQ(runs_->trace("other").tensors, reference_.tensors);
  EXPECT_EQ(runs_->train("rewind", {"--resume-from", "7"}).code, 66);
}

TEST_F(TrainCommand, AMovedRunFolderGoesOn) {
  copy_at("before", 6);
  fs::rename(path("before"), path("after"));
  expect_same_end("after");
}

TEST_F(TrainCommand, OfADamagedCheckpointTheOneBeforeIsUsed) {
  copy_at("damaged", 12);
  fs::resize_file(runs_->checkpoint("damaged", 12) / "rank-00000.h5", 1000);
  const auto again = runs_->train("damaged");
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_TRUE(says(again, "Falling back to step-00000009")) << again.err;
  EXPECT_TRUE(logs("damaged", "Falling back to step-00000009"));
  EXPECT_EQ(runs_->trace("damaged"), reference_);
}

// A damaged checkpoint counts as the newest by its name, and must not push out what is saved after it.
TEST_F(TrainCommand, SavesBehindADamagedCheckpointStay) {
  copy_at("behind", 12);
  for (const int64_t step : steps("behind"))
    if (step < 9) fs::remove_all(runs_->checkpoint("behind", step));
  const fs::path newest = runs_->checkpoint("behind", 12) / "rank-00000.h5";
  std::string bytes = test::slurp(newest);
  bytes[bytes.size() / 2] ^= 1;
  std::ofstream(newest, std::ios::binary) << bytes;
  const auto killed = runs_->train("behind", {"checkpoint.keep_last=1", "checkpoint.every_steps=1"},
                                   "ckpt.manifest.write@2:kill");
  EXPECT_EQ(killed.code, -1);
  EXPECT_TRUE(fs::exists(runs_->checkpoint("behind", 10)));
  EXPECT_TRUE(says(runs_->train("behind"), "at step 10 "));
}

TEST_F(TrainCommand, ABestCheckpointHasItsOwnValidationLoss) {
  const auto run = runs_->train("best", {"checkpoint.keep_best=1", "checkpoint.keep_last=9"});
  EXPECT_EQ(run.code, 0) << run.err;
  std::map<int64_t, double> losses;
  for (const auto& record : runs_->trace("best").records)
    if (record["event"] == "eval") losses[record["step"]] = record["loss"];
  ASSERT_EQ(losses.size(), 3u);
  ASSERT_LT(losses[8], losses[4]);  // so that 8 is a new best and saved for it
  EXPECT_EQ(steps("best"), (std::vector<int64_t>{12, 9, 8, 6, 4, 3}));
  for (const auto& saved : checkpoint::list(path("best"))) {
    EXPECT_EQ(saved.metric.has_value(), losses.contains(saved.step)) << saved.step;
    if (saved.metric) {
      EXPECT_NEAR(*saved.metric, losses[saved.step], 1e-6) << saved.step;
    }
  }
}

TEST_F(TrainCommand, AChangedRunIsRefusedWithATableAndHyperParametersAreListed) {
  copy_at("changed", 6);
  const std::pair<const char*, const char*> changes[] = {{"model.hidden_size=64", "saved 32, now 64"},
                                                         {"data.seq_len=32", "saved 16, now 32"},
                                                         {"precision=fp64", "saved fp32, now fp64"},
                                                         {"seed=8", "saved 7, now 8"}};
  for (const auto& [change, line] : changes) {
    const auto refused = runs_->train("changed", {change});
    EXPECT_EQ(refused.code, 78) << change << refused.err;
    EXPECT_TRUE(says(refused, line)) << refused.err;
  }
  runs_->prepare("tokens2", "another text, " + test::slurp("LICENSE"));
  const std::string elsewhere = "data.sources[0].path=" + path("tokens2.h5");
  const auto content = runs_->train("changed", {elsewhere});
  EXPECT_EQ(content.code, 78) << content.err;
  EXPECT_TRUE(says(content, "data.sources[0], its content: saved 1")) << content.err;
  EXPECT_EQ(runs_->train("changed", {elsewhere, "--accept-data-change"}).code, 0);
  copy_at("tuned", 6);
  const auto tuned = runs_->train("tuned", {"optim.lr=2e-3"});
  EXPECT_EQ(tuned.code, 0) << tuned.err;
  for (const std::string& line :
       {"resuming " + path("tuned") + " at step 6 (tokens 384) from " +
            runs_->checkpoint("tuned", 6).string() + " saved 20",
        std::string("Z by 1 rank\n"), std::string("optim.lr was 0.003, is 0.002")}) {
    EXPECT_TRUE(says(tuned, line)) << line << tuned.err;
    EXPECT_TRUE(logs("tuned", line)) << line;
  }
  EXPECT_NE(runs_->trace("tuned").tensors, reference_.tensors);
}

TEST_F(TrainCommand, AStepThatIsNotFiniteIsNotApplied) {
  const std::vector<std::string> often = {"checkpoint.every_steps=1", "checkpoint.keep_last=20"};
  const auto run = runs_->train("nan", often, "train.loss@5:nan");
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_TRUE(says(run, "Samples 16 to 19")) << run.err;
  const auto tensors = [](int64_t step) { return test::tensors_of(runs_->checkpoint("nan", step)); };
  EXPECT_NE(tensors(3), tensors(4));
  EXPECT_EQ(tensors(4), tensors(5));  // parameters, moments and their step counts
  EXPECT_NE(tensors(5), tensors(6));
  for (const auto& record : runs_->trace("nan").records) {
    if (record["event"] != "step") continue;
    EXPECT_EQ(record["loss"].is_null(), record["step"] == 5) << record;
    EXPECT_EQ(record["skipped"], record["step"] < 5 ? 0 : 1) << record;
  }
}

TEST_F(TrainCommand, TenStepsInARowThatAreNotFiniteEndTheRun) {
  std::string fault;
  for (int step = 2; step <= 11; ++step) fault += str(step == 2 ? "" : ",", "train.loss@", step, ":nan");
  const auto run = runs_->train("worse", {}, fault);
  EXPECT_EQ(run.code, 79) << run.err;
  EXPECT_TRUE(says(run, "error[TRAIN-03]")) << run.err;
  ASSERT_EQ(steps("worse"), (std::vector<int64_t>{9, 6}));
  EXPECT_TRUE(sound("worse", 9));
  EXPECT_EQ(runs_->train("worse").code, 0);  // and is good to go on from
}

TEST_F(TrainCommand, DryRunWritesNothing) {
  const auto count = [] {
    const fs::recursive_directory_iterator all(runs_->folder().path());
    return std::distance(begin(all), end(all));
  };
  const auto before = count();
  const auto dry = runs_->train("dry", {"--dry-run"});
  EXPECT_EQ(dry.code, 0) << dry.err;
  EXPECT_NE(dry.out.find("activations"), std::string::npos);
  EXPECT_EQ(count(), before);
}

// A run that was begun without goes on with it.
TEST_F(TrainCommand, RecomputeChangesNoBit) {
  for (const char* kind : {"selective", "block"}) {
    copy_at(kind, 6);
    const auto run = runs_->train(kind, {str("recipe.recompute=", kind)});
    EXPECT_EQ(run.code, 0) << run.err;
    EXPECT_TRUE(logs(kind, str("recipe.recompute was none, is ", kind)));
    EXPECT_EQ(runs_->trace(kind), reference_);
  }
}

TEST_F(TrainCommand, WhatDoesNotFitIntoMemoryDoesNotBegin) {
  const auto run = runs_->train("huge", {"model.hidden_size=131072", "model.num_layers=2"});
  EXPECT_EQ(run.code, 69) << run.err;
  for (const char* part : {"error[MEM-02]", "parameters ", "activations ", "recipe.micro_batch_size (2;"})
    EXPECT_TRUE(says(run, part)) << part << run.err;
  EXPECT_FALSE(fs::exists(path("huge")));
}

TEST_F(TrainCommand, VariablesOfTheEnvironmentAreLogged) {
  const auto run = test::run_rookery(runs_->words("variables", {"recipe.max_steps=3"}),
                                     {{"ROOKERY_ISA", "portable"}, {"ROOKERY_IAS", "avx2"}});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_TRUE(logs("variables", " I] environment: ROOKERY_ISA=portable\n"));
  EXPECT_TRUE(logs("variables", "ROOKERY_IAS is not known (did you mean 'ROOKERY_ISA'?)")) << run.err;
}

TEST_F(TrainCommand, AReadErrorIsTriedAgainThenNamed) {
  const auto once = runs_->train("shaky", {}, "data.read@5:eio");
  EXPECT_EQ(once.code, 0) << once.err;
  EXPECT_EQ(runs_->trace("shaky"), reference_);
  const auto always = runs_->train("broken", {}, "data.read:eio");
  EXPECT_EQ(always.code, 74) << always.err;
  EXPECT_TRUE(says(always, "error[DATA-23]") && says(always, "cannot be read at byte ")) << always.err;
}

TEST_F(TrainCommand, AccumulatedMicroBatchesEqualOneBatch) {
  const std::vector<std::string> common = {"precision=fp64", "recipe.max_steps=1", "optim.warmup_steps=0"};
  auto halves = common, whole = common;
  halves.push_back("recipe.micro_batch_size=2");
  whole.push_back("recipe.micro_batch_size=4");
  ASSERT_EQ(runs_->train("halves", halves).code, 0);
  ASSERT_EQ(runs_->train("whole", whole).code, 0);
  // The first moment is linear in the gradient, so rounding stays what it is.
  const auto a = test::values_of(runs_->checkpoint("halves", 1), "opt/m");
  const auto b = test::values_of(runs_->checkpoint("whole", 1), "opt/m");
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, values] : a) {
    double largest = 0, difference = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      largest = std::max(largest, std::abs(values[i]));
      difference = std::max(difference, std::abs(values[i] - b.at(name)[i]));
    }
    EXPECT_LE(difference, 1e-12 * largest) << name;
  }
  const double norm = runs_->trace("halves").records[0]["grad_norm"];
  EXPECT_GT(norm, 0);
  EXPECT_NEAR(runs_->trace("whole").records[0]["grad_norm"].get<double>() / norm, 1, 1e-12);
}

// Of each part, and together the global norm that clipping sees.
TEST_F(TrainCommand, NormsOfThePartsAreLogged) {
  std::map<int64_t, double> global;
  int64_t records = 0;
  for (const auto& record : reference_.records) {
    if (record["event"] == "step") global[record["step"]] = record["grad_norm"];
    if (record["event"] != "norms") continue;
    ++records;
    EXPECT_EQ(record["step"], 4 * records);
    double squares = 0;
    for (const auto& [part, norms] : record["parts"].items()) {
      squares += std::pow(norms["grad_norm"].get<double>(), 2);
      EXPECT_GT(norms["param_norm"].get<double>(), 0) << part;
      EXPECT_GT(norms["update_ratio"].get<double>(), 0) << part;
    }
    EXPECT_NEAR(std::sqrt(squares) / global[record["step"]], 1, 1e-6);
    EXPECT_TRUE(record["parts"].contains("emb") && record["parts"].contains("blocks.att"));
  }
  EXPECT_EQ(records, 3);
}

TEST_F(TrainCommand, AMixtureCanBeLookedAtBefore) {
  const auto mix = test::run_rookery({"data", "mix-preview", "--source", path("tokens.h5") + "=3", "--source",
                                      path("tokens.h5"), "--tokens", "64000", "--seq-len", "16", "--json"});
  ASSERT_EQ(mix.code, 0) << mix.err;
  const auto rows = nlohmann::json::parse(mix.out);
  for (const auto& [row, taken] : {std::pair{rows[0], 48000}, {rows[1], 16000}}) {
    const int64_t windows = (row["tokens"].get<int64_t>() - 1) / 16;
    EXPECT_EQ(row["tokens_taken"], taken);
    EXPECT_NEAR(row["epochs"].get<double>(), taken / 16.0 / static_cast<double>(windows), 1e-12);
  }
  EXPECT_EQ(test::run_rookery({"data", "mix-preview", "--tokens", "1M"}).code, 78);
  EXPECT_EQ(
      test::run_rookery({"data", "mix-preview", "--source", path("tokens.h5") + "=x", "--tokens", "1M"}).code,
      64);
}

TEST_F(TrainCommand, SingleAndDoublePrecisionBeginAlike) {
  ASSERT_EQ(runs_->train("fp64", {"precision=fp64", "recipe.max_steps=3"}).code, 0);
  const double fp64 = runs_->trace("fp64").records[0]["loss"], fp32 = reference_.records[0]["loss"];
  EXPECT_NEAR(fp32, fp64, 1e-5);
}

TEST_F(TrainCommand, BadDataIsFoundBeforeARunFolderIsMade) {
  fs::copy(path("tokens.h5"), path("cut.h5"));
  fs::resize_file(path("cut.h5"), fs::file_size(path("cut.h5")) - 100);
  std::string swapped = test::slurp(path("vocab.txt"));
  swapped.replace(swapped.find("'\\x41'"), 6, "'\\x42'");
  swapped.replace(swapped.rfind("'\\x42'"), 6, "'\\x41'");
  put(runs_->folder(), "swapped.txt", swapped);
  runs_->prepare("short", "ten bytes.");
  struct Case {
    const char* what;
    std::vector<std::string> change;
    int code;
    const char* says;
  };
  const Case cases[] = {
      {"missing", {"data.sources[0].path=" + path("absent.h5")}, 66, "absent.h5"},
      {"missing validation", {"data.val[0].path=" + path("absent.h5")}, 66, "absent.h5"},
      {"truncated", {"data.sources[0].path=" + path("cut.h5")}, 65, "cut.h5"},
      {"other tokenizer", {"data.tokenizer=" + path("swapped.txt")}, 65, "DATA-11"},
      {"too short", {"data.sources[0].path=" + path("short.h5")}, 65, "DATA-07"},
      {"too short for validation", {"data.val[0].path=" + path("short.h5")}, 65, "DATA-07"},
      {"ids too large", {"model.vocab_size=200"}, 65, "DATA-06"},
      {"mixing power", {"model.ffn_mix_power=2"}, 78, "ffn_mix_power 2 is neither 3"},
  };
  for (const Case& c : cases) {
    const auto run = runs_->train("bad", c.change);
    EXPECT_EQ(run.code, c.code) << c.what << ": " << run.err;
    EXPECT_TRUE(says(run, c.says)) << c.what << ": " << run.err;
    EXPECT_FALSE(fs::exists(path("bad"))) << c.what;
  }
}

// A .bin/.idx pair does not tell its vocabulary: the ids themselves are looked at.
TEST_F(TrainCommand, IdsOfAValidationSetAreChecked) {
  put(runs_->folder(), "wide.txt", test::slurp(path("vocab.txt")) + "300 b'\\x65\\x20' 2\n");
  const auto made = test::run_rookery({"data", "prepare", "--tokenizer", path("wide.txt"), "--in",
                                       path("tokens.txt"), "--out", path("wide"), "--format", "binidx"});
  ASSERT_EQ(made.code, 0) << made.err;
  const auto run = runs_->train("wide-run", {"data.val[0].path=" + path("wide")});
  EXPECT_EQ(run.code, 65) << run.err;
  EXPECT_TRUE(says(run, "DATA-06") && says(run, "is 300")) << run.err;
}

TEST_F(TrainCommand, WeightsOfAnotherRunToStartFrom) {
  const auto run = runs_->train("warm", {"init.from=" + path("reference"), "recipe.max_steps=3"});
  EXPECT_EQ(run.code, 0) << run.err;
  const auto first = [](const std::string& name) {
    return runs_->trace(name).records[0]["loss"].get<double>();
  };
  EXPECT_LT(first("warm"), first("reference") - 0.5);
  const auto wider = runs_->train("wide", {"init.from=" + path("reference"), "model.hidden_size=64"});
  EXPECT_EQ(wider.code, 65) << wider.err;
  EXPECT_TRUE(says(wider, "[257, 32]")) << wider.err;
  EXPECT_EQ(runs_->train("none", {"init.from=" + path("absent")}).code, 66);
}

TEST_F(TrainCommand, ClosedOutputDoesNotDisturbARun) {
  const char* program = std::getenv("ROOKERY_BIN");
  std::string line = program ? program : "build/bin/rookery";
  for (const auto& word : runs_->words("closed")) line += " " + word;
  EXPECT_EQ(test::run_program({"bash", "-c", line + " <&- >&- 2>&-"}).code, 0);
  EXPECT_EQ(runs_->trace("closed"), reference_);
  fs::remove_all(path("closed"));
  const auto piped = test::run_program({"bash", "-c", line + " 2>&1 | head -c 1; exit ${PIPESTATUS[0]}"});
  EXPECT_EQ(piped.code, 0) << piped.err;
  EXPECT_EQ(runs_->trace("closed"), reference_);
  EXPECT_NE(test::slurp(path("closed/train.log")).find("is closed; the run goes on"), std::string::npos);
}

TEST_F(TrainCommand, DeletedEventFilesAreMadeAnew) {
  const auto event_files = [] {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(path("board/tb")))
      if (entry.is_regular_file()) files.push_back(entry.path());
    return files;
  };
  auto process = runs_->pause("board", "train.loss@5:stop");
  const auto before = event_files();
  ASSERT_EQ(before.size(), 2u);
  for (const auto& file : before) fs::remove(file);
  process.go_on();
  EXPECT_EQ(process.outcome().exit_code, 0);
  EXPECT_EQ(event_files(), before);
  EXPECT_EQ(runs_->trace("board"), reference_);
}

TEST_F(TrainCommand, DecimalCommasOfALocaleChangeNothing) {
  if (test::run_program({"localedef", "-i", "de_DE", "-f", "UTF-8", path("de_DE.UTF-8")}).code != 0)
    GTEST_SKIP() << "localedef cannot make de_DE here";
  const auto run = test::run_rookery(
      runs_->words("de"), {{"LOCPATH", runs_->folder().path().string()}, {"LC_ALL", "de_DE.UTF-8"}});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_TRUE(says(run, " lr=3.00e-05 ")) << run.err;
  EXPECT_EQ(runs_->trace("de"), reference_);
}

TEST_F(TrainCommand, WithoutAGpuItSaysWhatIsMissing) {
  if (cuda::inspect().problem.empty()) GTEST_SKIP() << "this machine has a GPU";
  const auto r = runs_->train("gpu", {"device=cuda"});
  EXPECT_EQ(r.code, 69) << r.err;
  EXPECT_TRUE(says(r, str("error[", cuda::inspect().problem_id, "]: device: cuda: "))) << r.err;
}

}  // namespace
}  // namespace rookery
