// metrics_test.cpp: the progress line, metrics.jsonl with its resume rule, train.log, and what a broken disk
// or terminal does to them.
#include "trainer/loop/metrics.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <clocale>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/base/error.h"
#include "tests/support/program.h"
#include "tests/support/tfevents_reader.h"
#include "trainer/loop/environment.h"
#include "trainer/loop/human.h"
#include "trainer/loop/peak.h"

namespace rookery::loop {
namespace {

using test::fs::path;

TEST(HumanTest, Counts) {
  EXPECT_EQ(human_count(0), "0");
  EXPECT_EQ(human_count(999), "999");
  EXPECT_EQ(human_count(999.6), "1.0k");
  EXPECT_EQ(human_count(412345), "412.3k");
  EXPECT_EQ(human_count(999949), "999.9k");
  EXPECT_EQ(human_count(999950), "1.0M");
  EXPECT_EQ(human_count(629.1e6), "629.1M");
  EXPECT_EQ(human_count(26.2e9), "26.2G");
  EXPECT_EQ(human_count(-1500), "-1.5k");
  EXPECT_EQ(human_count(kUnknown), "n/a");
}

TEST(HumanTest, Durations) {
  EXPECT_EQ(human_duration(0.4), "0s");
  EXPECT_EQ(human_duration(59.6), "1m00s");
  EXPECT_EQ(human_duration(125), "2m05s");
  EXPECT_EQ(human_duration(3 * 3600 + 55 * 60), "3h55m");
  EXPECT_EQ(human_duration(51 * 3600), "2d03h");
  EXPECT_EQ(human_duration(-1), "n/a");
  EXPECT_EQ(human_duration(INFINITY), "n/a");
}

TEST(HumanTest, NumbersIgnoreTheLocale) {
  // Debian's tests run where de_DE may not be installed; the C library then refuses it and the check still
  // holds.
  const std::string before = std::setlocale(LC_ALL, nullptr);
  std::setlocale(LC_ALL, "de_DE.UTF-8");
  EXPECT_EQ(fixed(3.41267, 4), "3.4127");
  EXPECT_EQ(scientific(5.98e-4, 2), "5.98e-04");
  std::setlocale(LC_ALL, before.c_str());
  EXPECT_EQ(fixed(-INFINITY, 1), "-inf");
  EXPECT_EQ(gib(65712161587), "61.2");
}

TEST(HumanTest, ControlCharactersAreNotPrinted) {
  EXPECT_EQ(printable("a\nb\x1b[31m\x7f\t\xc2\x9b\xc3\xa4"), "a\\nb\\x1b[31m\\x7f\\t\\xc2\\x9b\xc3\xa4");
}

TEST(HumanTest, Times) { EXPECT_EQ(utc_time(1745461422.481), "2025-04-24T02:23:42.481Z"); }

StepMetrics example() {
  StepMetrics m;
  m.step = 1200;
  m.total_steps = 50000;
  m.tokens = 629145600;
  m.total_tokens = 26214400000;
  m.step_tokens = 524288;
  m.loss = 3.41274;
  m.loss_max = 3.52;
  m.lr = 5.98e-4;
  m.grad_norm = 0.61;
  m.step_time_s = 1.0;
  m.data_wait_s = 0.003;
  m.memory_bytes = 65712161587;
  m.memory_total_bytes = int64_t(140) << 30;
  return m;
}

TEST(MetricsTest, ProgressLine) {
  Rates r;
  r.tok_per_s = 412345;
  r.tflops = 389;
  r.mfu = 0.394;
  r.hfu = 0.512;
  r.eta_s = 51 * 3600;
  EXPECT_EQ(step_line(example(), r),
            "step=1200/50000 tokens=629.1M/26.2G loss=3.4127 loss_max=3.52 ppl=30.3 lr=5.98e-04 gnorm=0.61 "
            "tok/s=412.3k tflops=389.00 mfu=39.4% hfu=51.2% mem=61.2/140.0GiB data=0.3% eta=2d03h skipped=0");
  EXPECT_NE(step_line(example(), Rates()).find(" tok/s=n/a tflops=n/a mfu=n/a hfu=n/a "), std::string::npos);
}

TEST(MetricsTest, RecordReadsBackToTheSameNumbers) {
  StepMetrics m = example();
  m.grad_norm = 0.1 + 0.2;
  m.loss_max = INFINITY;
  const auto record = nlohmann::json::parse(step_record(m, Rates(), 1.5));
  EXPECT_EQ(record["loss"].get<double>(), static_cast<double>(3.41274f));
  EXPECT_EQ(record["grad_norm"].get<double>(), 0.1 + 0.2);
  EXPECT_EQ(record["step"], 1200);
  EXPECT_TRUE(record["loss_max"].is_null());
  EXPECT_TRUE(record["mfu"].is_null());
}

TEST(ThroughputTest, LeavesOutTheFirstStepsAndPauses) {
  Throughput t(5);
  for (int i = 0; i < 5; ++i) t.step(1000, 60, 1);
  t.pause(1000);
  EXPECT_TRUE(std::isnan(t.tokens_per_second()));
  EXPECT_TRUE(std::isnan(t.tokens_per_second_wall()));
  for (int i = 0; i < 10; ++i) t.step(1000, 0.5, 0.05);
  t.pause(5);
  EXPECT_NEAR(t.tokens_per_second(), 2000, 1e-9);
  EXPECT_NEAR(t.tokens_per_second_wall(), 1000, 1e-9);
  EXPECT_NEAR(t.data_share(), 0.1, 1e-12);
  for (int i = 0; i < 400; ++i) t.step(1000, 0.25, 0);
  EXPECT_NEAR(t.tokens_per_second(), 4000, 10);
}

// A run of steps first..last in `run`, whose loss is a function of the step; its console is the file
// `console`.
struct FakeRun {
  path run_dir;
  int64_t first = 1, last = 20, total = 20, every = 1;
  bool evaluate = false;
  double peak_tflops = 0;
  Console::Style style;

  static double loss(int64_t step) { return 10.0 / double(step) + 1.0 / 3; }

  void operator()() const {
    create_run_folder(run_dir);
    Console console(style);
    MetricsLog::Options options;
    options.run_dir = run_dir;
    options.run_id = "test";
    options.first_step = first;
    options.first_tokens = (first - 1) * 500'000;
    options.every_steps = every;
    options.flops_per_token = 2e6;
    options.recomputed_flops_per_token = 0.5e6;
    options.peak_tflops = peak_tflops;
    MetricsLog log(options, console);
    for (int64_t step = first; step <= last; ++step) {
      StepMetrics m = example();
      m.step = step;
      m.total_steps = total;
      m.step_tokens = 500'000;
      m.tokens = step * m.step_tokens;
      m.total_tokens = total * m.step_tokens;
      m.loss = loss(step);
      log.step(m);
      if (evaluate && step % 5 == 0) log.evaluation({step, m.tokens, "valid", loss(step) + 0.5, 1.25, 0.1});
    }
  }
};

class MetricsLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    console_ = dir_.path() / "console";
    fd_ = ::open(console_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ASSERT_GE(fd_, 0);
    run_.run_dir = dir_.path() / "run";
    run_.style.fd = fd_;
  }
  void TearDown() override { ::close(fd_); }

  std::vector<nlohmann::json> records() const { return read_metrics(run_.run_dir / "metrics.jsonl"); }
  std::string train_log() const { return test::slurp(run_.run_dir / "train.log"); }
  std::vector<test::TfEvent> events(const path& folder) const {
    std::vector<path> files;
    for (const auto& entry : test::fs::directory_iterator(folder))
      if (entry.is_regular_file()) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    std::vector<test::TfEvent> all;
    for (const path& file : files) {
      const test::TfFile read = test::read_tfevents_file(file);
      EXPECT_EQ(read.error, "");
      for (const auto& event : read.events) {
        // What TensorBoard does at a session start.
        if (event.session_status == 1u)
          std::erase_if(all, [&](const test::TfEvent& old) { return old.step >= event.step; });
        all.push_back(event);
      }
    }
    return all;
  }

  test::TempDir dir_;
  path console_;
  int fd_ = -1;
  FakeRun run_;
};

std::vector<std::pair<int64_t, double>> losses(const std::vector<nlohmann::json>& records,
                                               const char* event = "step") {
  std::vector<std::pair<int64_t, double>> out;
  for (const auto& r : records)
    if (r["event"] == event) out.emplace_back(r["step"].get<int64_t>(), r["loss"].get<double>());
  return out;
}

TEST_F(MetricsLogTest, LogsFirstLastAndEveryNthStep) {
  run_.every = 6;
  run_();
  const auto logged = losses(records());
  ASSERT_EQ(logged.size(), 5u);
  const int64_t expected[] = {1, 6, 12, 18, 20};
  for (size_t i = 0; i < logged.size(); ++i) EXPECT_EQ(logged[i].first, expected[i]);
  const std::string console = test::slurp(console_);
  EXPECT_EQ(std::count(console.begin(), console.end(), '\n'), 5);
  EXPECT_TRUE(console.starts_with("step=1/20 tokens=500.0k/10.0M loss=10.3333 ")) << console;
  EXPECT_EQ(console.find('\x1b'), std::string::npos);
  EXPECT_EQ(console.find('\r'), std::string::npos);
  const std::string log = train_log();
  EXPECT_NE(log.find(" I] step=20/20 tokens=10.0M/10.0M "), std::string::npos) << log;
}

TEST_F(MetricsLogTest, LossEqualsTensorBoardBitForBit) {
  run_.evaluate = true;
  run_.peak_tflops = 2;
  run_();
  std::vector<std::pair<int64_t, double>> train, valid;
  double last_mfu = 0, last_hfu = 0, last_speed = 0;
  for (const auto& event : events(run_.run_dir / "tb"))
    for (const auto& value : event.values) {
      if (value.tag == "train/loss") train.emplace_back(event.step, double(value.scalar.value()));
      if (value.tag == "val/valid/loss") valid.emplace_back(event.step, double(value.scalar.value()));
      if (value.tag == "perf/mfu") last_mfu = value.scalar.value();
      if (value.tag == "perf/hfu") last_hfu = value.scalar.value();
      if (value.tag == "perf/tok_per_s") last_speed = value.scalar.value();
    }
  EXPECT_EQ(train.size(), 20u);
  EXPECT_EQ(train, losses(records()));
  EXPECT_EQ(valid.size(), 4u);
  EXPECT_EQ(valid, losses(records(), "eval"));
  EXPECT_EQ(last_speed, 500'000.0f);
  EXPECT_FLOAT_EQ(last_mfu, 0.5f);    // 500000 tokens/s x 2 MFLOP = 1 TFLOP/s of 2
  EXPECT_FLOAT_EQ(last_hfu, 0.625f);  // and 0.5 MFLOP that are recomputed
  size_t by_tokens = 0;
  for (const auto& event : events(run_.run_dir / "tb" / "by_tokens"))
    for (const auto& value : event.values)
      by_tokens += value.tag == "train/loss_by_tokens" && event.step <= 10;
  EXPECT_EQ(by_tokens, 20u);
}

TEST(Peak, OfGpusByTheirNames) {
  EXPECT_EQ(known_peak_tflops("NVIDIA H200", 132), 989);
  EXPECT_EQ(known_peak_tflops("NVIDIA H100 80GB HBM3", 132), 989);
  EXPECT_EQ(known_peak_tflops("NVIDIA H100 PCIe", 114), 756);
  EXPECT_EQ(known_peak_tflops("NVIDIA A100-SXM4-80GB", 108), 312);
  EXPECT_EQ(known_peak_tflops("another", 132), 0);
  // A slice has the share of its multiprocessors.
  EXPECT_EQ(known_peak_tflops("NVIDIA H200 MIG 1g.18gb", 16), 989 * 16 / 132.0);
  EXPECT_EQ(known_peak_tflops("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 42), 312 * 42 / 108.0);
}

TEST_F(MetricsLogTest, MfuIsUnknownWithoutAPeak) {
  run_();
  EXPECT_NE(test::slurp(console_).find("tflops=1.00 mfu=n/a"), std::string::npos);
  EXPECT_TRUE(records().back()["mfu"].is_null());
}

TEST_F(MetricsLogTest, InterruptedRunsReadLikeOneRun) {
  run_.evaluate = true;
  FakeRun whole = run_;
  whole.run_dir = dir_.path() / "whole";
  whole();
  // Killed at steps 7, 12, 13; resumed from checkpoints after steps 0, 5, 10, 10, the record being torn now
  // and then.
  const int64_t parts[][2] = {{1, 7}, {1, 7}, {6, 12}, {11, 13}, {11, 20}};
  for (const auto& [first, last] : parts) {
    run_.first = first;
    run_.last = last;
    run_();
    if (last == 12) {
      const path file = run_.run_dir / "metrics.jsonl";
      test::fs::resize_file(file, test::fs::file_size(file) - 9);
    }
  }
  const auto other = read_metrics(whole.run_dir / "metrics.jsonl");
  EXPECT_EQ(losses(records()), losses(other));
  EXPECT_EQ(losses(records(), "eval"), losses(other, "eval"));
  EXPECT_EQ(losses(other).size(), 20u);
  std::vector<std::pair<int64_t, double>> board;
  for (const auto& event : events(run_.run_dir / "tb"))
    for (const auto& value : event.values)
      if (value.tag == "train/loss") board.emplace_back(event.step, double(value.scalar.value()));
  EXPECT_EQ(board, losses(other));
}

TEST_F(MetricsLogTest, FileBeginsWithItsSchemaAndAResumeIsMarked) {
  run_();
  run_.first = 11;
  run_();
  const std::string text = test::slurp(run_.run_dir / "metrics.jsonl");
  EXPECT_TRUE(text.starts_with(R"({"event":"start","schema":1,"run_id":"test",)")) << text.substr(0, 80);
  EXPECT_NE(text.find("\n{\"event\":\"resume\",\"step\":11,"), std::string::npos);
}

TEST_F(MetricsLogTest, ATornLastLineIsLeftOut) {
  run_();
  const path file = run_.run_dir / "metrics.jsonl";
  test::fs::resize_file(file, test::fs::file_size(file) - 1);
  EXPECT_EQ(losses(records()).size(), 19u);
}

TEST_F(MetricsLogTest, ReadingNamesTheBadLine) {
  const auto error = [&](const std::string& content) -> std::string {
    const path file = test::put(dir_, "bad.jsonl", content);
    try {
      read_metrics(file);
    } catch (const Error& e) {
      return str(static_cast<int>(e.code()), " ", e.id(), " ", e.what());
    }
    return "";
  };
  const std::string header = "{\"event\":\"start\",\"schema\":1}\n";
  EXPECT_NE(error(header + "{\"event\":\"step\",\"step\":1}\nnonsense\n").find("65 METRICS-02"),
            std::string::npos);
  EXPECT_NE(error(header + "{\"event\":\"step\",\"step\":1}\nnonsense\n").find("bad.jsonl:3: "),
            std::string::npos);
  EXPECT_NE(error(header + "{\"event\":\"step\",\"step\":\"x\"}\n").find("bad.jsonl:2: found no \"step\""),
            std::string::npos);
  EXPECT_NE(error(header + "[1]\n").find("bad.jsonl:2: found no \"event\""), std::string::npos);
  EXPECT_NE(error("{\"event\":\"start\",\"schema\":2}\n").find("65 METRICS-01"), std::string::npos);
  EXPECT_NE(error("[]\n").find("65 METRICS-01"), std::string::npos);
  EXPECT_NE(error(header + std::string(2 << 20, ' ') + "\n").find("bad.jsonl:2: found more than"),
            std::string::npos);
  EXPECT_EQ(error(header), "");
  EXPECT_EQ(error(""), "");
  EXPECT_THROW(read_metrics(dir_.path() / "none.jsonl"), Error);
  EXPECT_THROW(read_metrics(dir_.path()), Error);
}

TEST_F(MetricsLogTest, AFileOfAnotherSchemaIsNotAppendedTo) {
  create_run_folder(run_.run_dir);
  const std::string content = "{\"event\":\"start\",\"schema\":2}\n";
  test::put(dir_, "run/metrics.jsonl", content);
  EXPECT_THROW(run_(), Error);
  EXPECT_EQ(test::slurp(run_.run_dir / "metrics.jsonl"), content);
}

TEST_F(MetricsLogTest, RepeatedMessagesAreCounted) {
  create_run_folder(run_.run_dir);
  {
    Console console(run_.style);
    MetricsLog::Options options;
    options.run_dir = run_.run_dir;
    MetricsLog log(options, console);
    for (int i = 0; i < 119; ++i) log.warning("the sky\nis falling");
    log.info("it stopped");
  }
  EXPECT_EQ(test::slurp(console_), "warning: the sky\\nis falling\nit stopped\n");
  EXPECT_NE(train_log().find("repeated 118 times"), std::string::npos);
  const std::string log = train_log();
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 3);
}

TEST_F(MetricsLogTest, WaitingForDataIsToldOnceWithItsSource) {
  create_run_folder(run_.run_dir);
  Console console(run_.style);
  MetricsLog::Options options;
  options.run_dir = run_.run_dir;
  options.every_steps = 1;
  options.slowest_source = [] { return std::string("slow.h5"); };
  MetricsLog log(options, console);
  StepMetrics m;
  m.total_steps = 20;
  m.step_tokens = 1;
  m.step_time_s = 2;
  m.data_wait_s = 0.5;
  for (m.step = 1; m.step <= 20; ++m.step) log.step(m);
  const std::string text = train_log(), hint = "wait for data 25.0% of the time, most of it for slow.h5";
  EXPECT_NE(text.find(hint), std::string::npos) << text;
  EXPECT_EQ(text.find(hint), text.rfind(hint));
}

TEST_F(MetricsLogTest, ATerminalGetsOneLineThatRedrawsItself) {
  run_.style.terminal = true;
  run_.style.utf8 = true;
  run_.evaluate = true;
  run_();
  const std::string text = test::slurp(console_);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 5);  // four evaluations and the end of the bar
  EXPECT_EQ(text.find('\x1b'), std::string::npos);           // no colour asked for
  EXPECT_NE(text.find("\r50% ▕"), std::string::npos);
  EXPECT_NE(text.find("20/20 loss "), std::string::npos);
  for (size_t from = 0; from < text.size();) {
    const size_t to = std::min(text.find_first_of("\r\n", from), text.size());
    const std::string_view piece(text.data() + from, to - from);
    EXPECT_LE(std::count_if(piece.begin(), piece.end(), [](char c) { return (c & 0xC0) != 0x80; }), 80);
    from = to + 1;
  }
}

TEST(ConsoleTest, BarCells) {
  EXPECT_EQ(bar_cells(0.5, 4, true), "██  ");
  EXPECT_EQ(bar_cells(0.5 + 1.0 / 32, 4, true), "██▏ ");
  EXPECT_EQ(bar_cells(0.5, 4, false), "##  ");
  EXPECT_EQ(bar_cells(7, 4, true), "████");
  EXPECT_EQ(bar_cells(kUnknown, 4, true), "    ");
}

TEST_F(MetricsLogTest, AClosedTerminalIsReportedOnceAndTheRunGoesOn) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ::close(ends[0]);
  run_.style.fd = ends[1];
  const auto before = ::signal(SIGPIPE, SIG_IGN);  // as SignalGuard does
  run_();
  ::signal(SIGPIPE, before);
  ::close(ends[1]);
  EXPECT_EQ(losses(records()).size(), 20u);
  const std::string log = train_log();
  const size_t at = log.find("is closed; the run goes on");
  ASSERT_NE(at, std::string::npos);
  EXPECT_EQ(log.find("is closed; the run goes on", at + 1), std::string::npos);
}

// Runs in a process of its own, with ROOKERY_FAULT, for the tests below.
TEST_F(MetricsLogTest, RunInTheGivenFolder) {
  if (const char* folder = std::getenv("ROOKERY_TEST_FOLDER")) run_.run_dir = folder;
  run_();
  EXPECT_GE(losses(records()).size(), 16u);
}

struct FaultCase {
  const char* fault;
  size_t records;   // that remain of 20
  size_t warnings;  // in train.log
};

void PrintTo(const FaultCase& c, std::ostream* out) { *out << c.fault; }

class MetricsFaultTest : public MetricsLogTest, public ::testing::WithParamInterface<FaultCase> {};

TEST_P(MetricsFaultTest, TrainingGoesOnWithOneWarning) {
  const auto [fault, count, warnings] = GetParam();
  const test::Outcome outcome =
      test::run_test_again("MetricsLogTest.RunInTheGivenFolder",
                           {{"ROOKERY_FAULT", fault}, {"ROOKERY_TEST_FOLDER", run_.run_dir}});
  EXPECT_EQ(outcome.exit_code, 0);
  const auto logged = losses(records());
  EXPECT_EQ(logged.size(), count);
  for (const auto& [step, loss] : logged) EXPECT_EQ(loss, double(float(FakeRun::loss(step))));
  size_t found = 0;
  const std::string log = train_log();
  for (size_t at = 0; (at = log.find("records are lost", at)) != std::string::npos; ++at) ++found;
  EXPECT_EQ(found, warnings);
}

// The first write of metrics.jsonl is its header, so step k is write k + 1, one more after each failure (the
// cut).
INSTANTIATE_TEST_SUITE_P(Faults, MetricsFaultTest,
                         ::testing::Values(FaultCase{"log.metrics.write@4:enospc", 19, 1},
                                           FaultCase{"log.metrics.write@4:short", 20, 0},
                                           FaultCase{"log.metrics.write@4:enospc,log.metrics.write@7:eio", 18,
                                                     1},
                                           FaultCase{"log.tensorboard.write@4:enospc", 20, 1},
                                           FaultCase{"log.text.write@4:eio", 20, 0}),
                         [](const auto& one) { return str("Case", one.index); });

}  // namespace
}  // namespace rookery::loop
