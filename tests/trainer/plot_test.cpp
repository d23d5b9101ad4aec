// plot_test.cpp: ticks, smoothing, both pictures, and `rookery plot` through the real binary.
#include "trainer/loop/plot.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <regex>

#include "kernels/base/str.h"
#include "tests/support/program.h"

namespace rookery::loop {
namespace {

using Strings = std::vector<std::string>;
using Numbers = std::vector<double>;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(TicksTest, AreRoundNumbersInside) {
  EXPECT_EQ(nice_ticks(0, 10, 5), (Numbers{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(nice_ticks(-0.7, 0.9, 4), (Numbers{-0.5, 0, 0.5}));
  EXPECT_EQ(nice_ticks(130, 980, 4), (Numbers{500}));
  EXPECT_EQ(nice_ticks(1e9, 1e9 + 3, 3).size(), 4u);
  EXPECT_LE(nice_ticks(1e18, 1e18 + 256, 1000).size(), 100u);  // finer than a double resolves
  EXPECT_EQ(log_ticks(1, 1000), (Numbers{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}));
  EXPECT_EQ(log_ticks(1, 1e6), (Numbers{1, 10, 100, 1000, 10000, 100000, 1000000}));
  EXPECT_GE(log_ticks(31, 39).size(), 2u);
}

TEST(TicksTest, LabelsHaveTheFewestExactDigits) {
  EXPECT_EQ(tick_labels({0, 500, 1000}), (Strings{"0", "500", "1000"}));
  EXPECT_EQ(tick_labels({0, 5000, 10000}), (Strings{"0", "5k", "10k"}));
  EXPECT_EQ(tick_labels({2.5, 3}), (Strings{"2.5", "3.0"}));
  EXPECT_EQ(tick_labels({1.5e6, 2e6}), (Strings{"1.5M", "2.0M"}));
  EXPECT_EQ(tick_labels({1, 100, 1e4, 1e6}), (Strings{"1", "100", "10k", "1M"}));
  EXPECT_EQ(tick_labels({}), Strings{});
}

TEST(SmoothedTest, IsACentredMean) {
  const Numbers line = {0, 1, 2, 3, 4, 5, 6};
  EXPECT_EQ(smoothed(line, 2), line);  // a slope is not shifted, not at the ends either
  EXPECT_EQ(smoothed({0, 0, 9, 0, 0}, 1), (Numbers{0, 3, 3, 3, 0}));
  EXPECT_EQ(smoothed({1, 5, 2}, 0), (Numbers{1, 5, 2}));
  const Numbers gap = smoothed({2, kNan, 4, 6, 8}, 1);
  EXPECT_TRUE(std::isnan(gap[1]));
  EXPECT_EQ(gap[2], 5);
}

Chart curve(int points = 200) {
  Chart chart;
  chart.title = "A <b> & \"c\"\x1b";
  chart.x_label = "steps";
  chart.y_label = "loss";
  Series s;
  s.name = "run";
  for (int i = 1; i <= points; ++i) {
    s.x.push_back(i);
    s.y.push_back(2 + 8.0 / i);
  }
  chart.series.push_back(std::move(s));
  return chart;
}

// Element names in the order in which they open; fails unless every element is closed in turn.
Strings elements(const std::string& svg) {
  Strings opened, names;
  const std::regex tag("<(/?)([a-z]+)(?: [a-zA-Z0-9-]+=\"[^\"<]*\")*(/?)>");
  size_t found = 0;
  for (std::sregex_iterator it(svg.begin(), svg.end(), tag), end; it != end; ++it, ++found) {
    const std::string name = (*it)[2];
    if ((*it)[1].length()) {
      EXPECT_FALSE(opened.empty());
      EXPECT_EQ(opened.back(), name);
      opened.pop_back();
    } else {
      names.push_back(name);
      if (!(*it)[3].length()) opened.push_back(name);
    }
  }
  EXPECT_TRUE(opened.empty());
  EXPECT_EQ(found, static_cast<size_t>(std::count(svg.begin(), svg.end(), '<')));
  return names;
}

int64_t count(const Strings& all, const std::string& name) {
  return std::count(all.begin(), all.end(), name);
}

// The points of the n-th polyline.
std::vector<std::pair<double, double>> points(const std::string& svg, int n = 0) {
  size_t at = 0;
  for (int i = 0; i <= n; ++i) at = svg.find("points=\"", at) + 8;
  std::istringstream in(svg.substr(at, svg.find('"', at) - at));
  std::vector<std::pair<double, double>> out;
  double x, y;
  for (char comma; in >> x >> comma >> y;) out.emplace_back(x, y);
  return out;
}

TEST(SvgTest, DrawsTheCurveInsideItsAxesAndEscapesText) {
  const std::string svg = svg_chart(curve(), 800, 400);
  EXPECT_EQ(count(elements(svg), "polyline"), 1);
  EXPECT_NE(svg.find(">A &lt;b&gt; &amp; &quot;c&quot;\\x1b</text>"), std::string::npos);
  const auto line = points(svg);
  ASSERT_EQ(line.size(), 200u);
  EXPECT_EQ(line.front().first, 76);
  EXPECT_EQ(line.back().first, 776);
  for (size_t i = 1; i < line.size(); ++i) {
    EXPECT_GT(line[i].first, line[i - 1].first);
    EXPECT_GE(line[i].second, line[i - 1].second);  // the loss falls, y grows downwards
  }
  EXPECT_GT(line.front().second, 0);
  EXPECT_LT(line.back().second, 400 - 56);
}

TEST(SvgTest, LogarithmicAxisPlacesFactorsAtEqualDistance) {
  Chart chart = curve();
  chart.log_x = true;
  chart.series[0].x = {0, 1, 10, 100};
  chart.series[0].y = {9, 3, 2, 1};
  const auto line = points(svg_chart(chart));
  ASSERT_EQ(line.size(), 3u);  // 0 has no logarithm
  EXPECT_NEAR(line[1].first - line[0].first, line[2].first - line[1].first, 0.11);
}

TEST(SvgTest, ThinsLongSeriesButKeepsTheExtremes) {
  Chart chart = curve(200'000);
  chart.series[0].y[123'456] = 20;
  const std::string svg = svg_chart(chart);
  EXPECT_LT(svg.size(), 100'000u);
  const auto line = points(svg);
  const auto top =
      std::min_element(line.begin(), line.end(), [](auto a, auto b) { return a.second < b.second; });
  EXPECT_NEAR(top->first, 76 + 123'456.0 / 200'000 * (960 - 24 - 76), 1);
}

TEST(SvgTest, GapsInterruptTheLineAndALonePointIsADot) {
  Chart chart = curve(7);
  chart.series[0].y = {5, 4, kNan, 3, INFINITY, 2, 1};
  const Strings all = elements(svg_chart(chart));
  EXPECT_EQ(count(all, "polyline"), 2);
  EXPECT_EQ(count(all, "circle"), 1);
}

TEST(SvgTest, NothingToDrawAndASinglePointAreCharts) {
  EXPECT_EQ(count(elements(svg_chart(Chart())), "svg"), 1);
  EXPECT_EQ(svg_chart(Chart()).find("nan"), std::string::npos);
  const std::string one = svg_chart(curve(1));
  EXPECT_EQ(count(elements(one), "circle"), 1);
  EXPECT_EQ(one.find("nan"), std::string::npos);
  EXPECT_EQ(one.find("inf"), std::string::npos);
}

TEST(SvgTest, BytesThatAreNotUtf8AreReplaced) {
  Chart chart = curve();
  chart.title = "gr\xfc\xc3\xbc\xe2\x82x";
  EXPECT_NE(svg_chart(chart).find(">gr?\xc3\xbc?"
                                  "?x</text>"),
            std::string::npos);
}

Strings lines_of(const std::string& text) {
  Strings out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

TEST(TextChartTest, AsciiPictureOfASlope) {
  Chart chart;
  chart.x_label = "x";
  chart.y_label = "y";
  Series s;
  s.x = {0, 10};
  s.y = {10, 0};
  chart.series = {s};
  const Strings lines = lines_of(text_chart(chart, 24, 14, false, false));
  ASSERT_EQ(lines.size(), 14u);
  size_t before = 0;
  for (size_t row = 1; row <= 10; ++row) {
    EXPECT_LE(lines[row].size(), 24u);
    const size_t first = lines[row].find('*');
    ASSERT_NE(first, std::string::npos) << row;
    EXPECT_GT(first, before);
    before = first;
  }
  EXPECT_TRUE(lines[11].starts_with("   +")) << lines[11];
}

TEST(TextChartTest, FitsItsSizeAndUsesBrailleOnlyInUtf8) {
  Chart chart = curve();
  chart.series.push_back(chart.series[0]);
  chart.series[1].name = "another run with a long name";
  chart.series[1].color = 1;
  for (const int columns : {20, 40, 80, 200}) {
    for (const bool utf8 : {false, true}) {
      const std::string text = text_chart(chart, columns, 20, utf8, false);
      const bool ascii =
          std::all_of(text.begin(), text.end(), [](char c) { return static_cast<signed char>(c) >= 0; });
      EXPECT_EQ(ascii, !utf8);
      EXPECT_EQ(text.find('\x1b'), std::string::npos);
      const Strings lines = lines_of(text);
      for (size_t i = lines.size() - 18; i < lines.size(); ++i)  // the plot; a long name alone may be wider
        EXPECT_LE(std::count_if(lines[i].begin(), lines[i].end(), [](char c) { return (c & 0xC0) != 0x80; }),
                  columns);
    }
  }
  EXPECT_NE(text_chart(chart, 80, 20, true, true).find("\x1b[33m"), std::string::npos);
}

class PlotCommandTest : public ::testing::Test {
 protected:
  std::string run(const std::string& name, double scale) {
    std::string content = "{\"event\":\"start\",\"schema\":1}\n";
    const auto step = [&](int s, double loss) {
      content += str("{\"event\":\"step\",\"step\":", s, ",\"tokens\":", 2048 * s, ",\"loss\":", loss, "}\n");
    };
    for (int s = 1; s <= 60; ++s) step(s, scale * (2 + 8.0 / s));
    content += "{\"event\":\"eval\",\"step\":60,\"tokens\":122880,\"set\":\"en\",\"loss\":2.2}\n";
    step(61, 1e6);  // superseded
    content += "{\"event\":\"resume\",\"step\":61}\n";
    step(61, scale * 2.1);
    return test::put(dir_, name + "/metrics.jsonl", content).parent_path().string();
  }
  test::ProgramResult plot(std::vector<std::string> words) {
    words.insert(words.begin(), "plot");
    return test::run_rookery(words, {{"LC_ALL", "C.UTF-8"}});
  }
  std::string svg_path() const { return (dir_.path() / "out.svg").string(); }
  test::TempDir dir_;
};

TEST_F(PlotCommandTest, OneRun) {
  const auto result = plot({run("small", 1), "--out", svg_path()});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("small"), std::string::npos);
  EXPECT_NE(result.out.find("\xe2\xa0"), std::string::npos);  // Braille
  EXPECT_NE(result.out.find("steps"), std::string::npos);
  const std::string svg = test::slurp(svg_path());
  EXPECT_EQ(count(elements(svg), "polyline"), 2);  // as it is, and smoothed
  EXPECT_EQ(count(elements(svg), "circle"), 2);    // one evaluation, and its mark in the legend
  EXPECT_EQ(points(svg).size(), 61u);
  EXPECT_EQ(svg.find(">1000000<"), std::string::npos);
  EXPECT_NE(svg.find(">10<"), std::string::npos);  // the superseded loss did not stretch the axis
}

TEST_F(PlotCommandTest, SeveralRunsOverTokens) {
  const auto result = plot(
      {run("a", 1), run("b", 2) + "/", "--x", "tokens", "--log-x", "--smooth", "0", "--out", svg_path()});
  EXPECT_EQ(result.code, 0) << result.err;
  const std::string svg = test::slurp(svg_path());
  EXPECT_EQ(count(elements(svg), "polyline"), 2);
  for (const char* text : {">a training<", ">b training<", ">a validation en<", ">tokens<", ">10k<"})
    EXPECT_NE(svg.find(text), std::string::npos) << text;
}

TEST_F(PlotCommandTest, AnExistingPictureIsKeptWithoutForce) {
  const std::string folder = run("a", 1);
  test::put(dir_, "out.svg", "mine");
  const auto refused = plot({folder, "--out", svg_path()});
  EXPECT_EQ(refused.code, 73);
  EXPECT_NE(refused.err.find("PLOT-03"), std::string::npos) << refused.err;
  EXPECT_EQ(test::slurp(svg_path()), "mine");
  EXPECT_EQ(plot({folder, "--out", svg_path(), "--force"}).code, 0);
  EXPECT_TRUE(test::slurp(svg_path()).starts_with("<svg "));
  const auto same = plot({folder, "--out", folder + "/metrics.jsonl", "--force"});
  EXPECT_EQ(same.code, 64);
  EXPECT_TRUE(test::slurp(folder + "/metrics.jsonl").starts_with("{"));
}

TEST_F(PlotCommandTest, BadInput) {
  EXPECT_EQ(plot({}).code, 64);
  EXPECT_EQ(plot({(dir_.path() / "none").string()}).code, 66);
  EXPECT_EQ(plot({run("a", 1), "--x", "time"}).code, 64);
  const auto empty = test::put(dir_, "empty/metrics.jsonl", "{\"event\":\"start\",\"schema\":1}\n");
  const auto result = plot({empty.string()});
  EXPECT_EQ(result.code, 65);
  EXPECT_NE(result.err.find("PLOT-01"), std::string::npos) << result.err;
  test::put(dir_, "bad/metrics.jsonl", "{\"event\":\"start\",\"schema\":1}\n{\"event\":\"step\",\"step\":\n");
  EXPECT_EQ(plot({(dir_.path() / "bad").string()}).code, 65);
}

}  // namespace
}  // namespace rookery::loop
