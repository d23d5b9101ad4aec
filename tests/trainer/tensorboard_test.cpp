// tensorboard_test.cpp: event files byte by byte against known ones, and through a reader that shares no code
// with the writer.
#include "trainer/loop/tensorboard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/base/str.h"
#include "tests/support/program.h"
#include "tests/support/tfevents_reader.h"

namespace rookery::loop {
namespace {

using test::fs::path;

std::string hex(std::string_view bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out;
  for (const unsigned char b : bytes) out += {kDigits[b >> 4], kDigits[b & 15]};
  return out;
}

TensorBoard::Options at(double time) {
  TensorBoard::Options options;
  options.clock = [time] { return time; };
  return options;
}

// Made by another implementation of the format.
TEST(TensorBoardTest, WritesTheKnownBytes) {
  const test::TempDir dir;
  double now = 1700000000.0;
  TensorBoard::Options options;
  options.clock = [&] { return now; };
  TensorBoard board(dir.path(), options);
  now = 1700000001.5;
  const Scalar loss[] = {{"train/loss", 2.5f}};
  board.scalars(7, loss);
  EXPECT_EQ(
      hex(test::slurp(board.path())),
      "1800000000000000a37f4b220900000040fc54d9411a0d627261696e2e4576656e743a32eced8f9d"
      "200000000000000029eda9500900006040fc54d94110072a130a110a0a747261696e2f6c6f73731500002040ecdd017c");
}

TEST(TensorBoardTest, FileNameHoldsTimeHostProcessAndNumber) {
  const test::TempDir dir;
  const TensorBoard board(dir.path(), at(1700000000.9));
  char host[256] = {};
  ASSERT_EQ(::gethostname(host, sizeof host - 1), 0);
  EXPECT_EQ(board.path().filename().string(),
            str("events.out.tfevents.1700000000.", host, ".", ::getpid(), ".0"));
}

TEST(TensorBoardTest, RestartOpensALaterFileThatSaysSo) {
  const test::TempDir dir;
  const TensorBoard first(dir.path(), at(1700000000));
  TensorBoard::Options options = at(1600000000);  // the clock went back meanwhile
  options.restart_step = 120;
  const TensorBoard second(dir.path(), options);
  EXPECT_GT(second.path().filename().string(), first.path().filename().string());
  EXPECT_EQ(test::read_tfevents_file(first.path()).events.size(), 1u);
  const test::TfFile file = test::read_tfevents_file(second.path());
  ASSERT_EQ(file.error, "");
  ASSERT_EQ(file.events.size(), 2u);
  EXPECT_EQ(file.events[0].file_version, "brain.Event:2");
  EXPECT_EQ(file.events[1].step, 120);
  EXPECT_EQ(file.events[1].session_status, 1u);
}

TEST(TensorBoardTest, TextIsAStringTensorForTheTextPlugin) {
  const test::TempDir dir;
  TensorBoard board(dir.path(), at(1));
  const std::string long_text = str("# Größe\n", std::string(1000, 'x'));
  board.text(3, "run/config", long_text);
  const test::TfFile file = test::read_tfevents_file(board.path());
  ASSERT_EQ(file.error, "");
  ASSERT_EQ(file.events.size(), 2u);
  ASSERT_EQ(file.events[1].values.size(), 1u);
  const test::TfValue& value = file.events[1].values[0];
  EXPECT_EQ(file.events[1].step, 3);
  EXPECT_EQ(value.tag, "run/config/text_summary");
  EXPECT_EQ(value.plugin, "text");
  EXPECT_EQ(value.tensor_type, 7u);
  EXPECT_EQ(value.shape, std::vector<uint64_t>{1});
  EXPECT_EQ(value.strings, std::vector<std::string>{long_text});
}

TEST(TensorBoardTest, HistogramCountsEachValueOnceInItsBucket) {
  const test::TempDir dir;
  TensorBoard board(dir.path(), at(1));
  const float nan = std::numeric_limits<float>::quiet_NaN(), huge = std::numeric_limits<float>::max();
  const std::vector<float> values = {0.f, 0.f, 1.f, -2.5f, 3e-4f, huge, nan, -huge};
  board.histogram(9, "hist/weights/w", values);
  const test::TfFile file = test::read_tfevents_file(board.path());
  ASSERT_EQ(file.error, "");
  ASSERT_EQ(file.events.size(), 2u);
  const test::TfHistogram& h = file.events[1].values.at(0).histogram.value();
  EXPECT_EQ(h.min, -double(huge));
  EXPECT_EQ(h.max, double(huge));
  EXPECT_EQ(h.num, 7);
  ASSERT_EQ(h.limits.size(), h.counts.size());
  std::vector<double> expected(h.limits.size());
  for (const float v : values) {
    if (std::isnan(v)) continue;
    for (size_t i = 0; i < h.limits.size(); ++i)
      if (double(v) <= h.limits[i]) {
        ++expected[i];
        break;
      }
  }
  EXPECT_EQ(h.counts, expected);
}

TEST(TensorBoardTest, HistogramDropsEmptyTailsButOneBucketOnTheLeft) {
  const test::TempDir dir;
  TensorBoard board(dir.path(), at(1));
  const float ones[] = {1.f, 1.f};
  board.histogram(1, "h", ones);
  board.histogram(2, "h", {});
  const test::TfFile file = test::read_tfevents_file(board.path());
  ASSERT_EQ(file.events.size(), 3u);
  const test::TfHistogram& h = file.events[1].values.at(0).histogram.value();
  EXPECT_EQ(h.counts, (std::vector<double>{0, 2}));
  EXPECT_LT(h.limits.at(0), 1.0);
  EXPECT_GE(h.limits.at(1), 1.0);
  EXPECT_NEAR(h.limits[1] / h.limits[0], 1.1, 1e-9);
  EXPECT_EQ(h.sum, 2);
  EXPECT_EQ(h.sum_squares, 2);
  EXPECT_EQ(file.events[2].values.at(0).histogram.value().num, 0);
}

TEST(TensorBoardTest, ADeletedFileIsCreatedAnew) {
  const test::TempDir dir;
  TensorBoard board(dir.path(), at(1700000000));
  const Scalar one[] = {{"a", 1.f}}, two[] = {{"a", 2.f}};
  board.scalars(1, one);
  ASSERT_TRUE(test::fs::remove(board.path()));
  board.scalars(2, two);
  const test::TfFile file = test::read_tfevents_file(board.path());
  ASSERT_EQ(file.error, "");
  ASSERT_EQ(file.events.size(), 2u);
  EXPECT_EQ(file.events[0].file_version, "brain.Event:2");
  EXPECT_EQ(file.events[1].step, 2);
  EXPECT_EQ(file.events[1].values.at(0).scalar, 2.f);
}

// A reader must accept a file that a killed process cut anywhere, and notice any changed bit.
TEST(TensorBoardTest, ReaderFindsEveryFlippedBitAndAcceptsEveryCut) {
  const test::TempDir dir;
  TensorBoard board(dir.path(), at(1700000000));
  const Scalar values[] = {{"train/loss", 2.5f}, {"train/lr", 1e-3f}};
  board.scalars(7, values);
  board.scalars(300, values);
  const std::string bytes = test::slurp(board.path());
  ASSERT_EQ(test::read_tfevents(bytes).events.size(), 3u);
  for (size_t size = 0; size < bytes.size(); ++size) {
    const test::TfFile file = test::read_tfevents(std::string_view(bytes).substr(0, size));
    EXPECT_EQ(file.error, "") << size;
    EXPECT_LT(file.events.size(), 3u) << size;
  }
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::string bad = bytes;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    EXPECT_NE(test::read_tfevents(bad).error, "") << bit;
  }
}

}  // namespace
}  // namespace rookery::loop
