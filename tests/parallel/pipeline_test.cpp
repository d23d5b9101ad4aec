// pipeline_test.cpp: the order of a pipeline's stages, what they send to each other, and the cut of a model
// into stages.
#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>
#include <numeric>

#include "parallel/comm/threads.h"
#include "parallel/pipeline/schedule.h"
#include "parallel/pipeline/stages.h"

namespace rookery {
namespace {

std::string text(const std::vector<StageAction>& order) {
  std::string all;
  for (const StageAction& a : order) all += str(all.empty() ? "" : " ", a.forward ? "F" : "B", a.micro_batch);
  return all;
}

TEST(OneForwardOneBack, WarmsUpTakesTurnsAndCoolsDown) {
  EXPECT_EQ(text(one_forward_one_back(0, 1, 3)), "F0 B0 F1 B1 F2 B2");
  EXPECT_EQ(text(one_forward_one_back(0, 3, 5)), "F0 F1 F2 B0 F3 B1 F4 B2 B3 B4");
  EXPECT_EQ(text(one_forward_one_back(1, 3, 5)), "F0 F1 B0 F2 B1 F3 B2 F4 B3 B4");
  EXPECT_EQ(text(one_forward_one_back(2, 3, 5)), "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4");
  EXPECT_EQ(text(one_forward_one_back(0, 4, 2)), "F0 F1 B0 B1");  // fewer than stages
  EXPECT_EQ(text(one_forward_one_back(2, 4, 2)), "F0 F1 B0 B1");
}

TEST(OneForwardOneBack, EachOnceInOrderAndFewInFlight) {
  for (int64_t stages = 1; stages <= 8; ++stages)
    for (int64_t stage = 0; stage < stages; ++stage)
      for (int64_t micro_batches = 1; micro_batches <= 12; ++micro_batches) {
        int64_t forward = 0, back = 0, most = 0;
        for (const StageAction& a : one_forward_one_back(stage, stages, micro_batches)) {
          EXPECT_EQ(a.micro_batch, a.forward ? forward : back);
          ++(a.forward ? forward : back);
          most = std::max(most, forward - back);
          ASSERT_GE(forward, back);
        }
        EXPECT_EQ(forward, micro_batches);
        EXPECT_EQ(back, micro_batches);
        EXPECT_EQ(most, std::min(stages - stage, micro_batches));
      }
}

// Each takes as long as the others: a stage works as soon as its input is there. The time of a step, in
// forwards, with backwards twice as long.
int64_t simulated_time(int64_t stages, int64_t micro_batches) {
  const auto S = static_cast<size_t>(stages), M = static_cast<size_t>(micro_batches);
  std::vector<std::vector<int64_t>> forward(S, std::vector<int64_t>(M, -1)), back = forward;
  std::vector<std::vector<StageAction>> orders;
  for (int64_t s = 0; s < stages; ++s) orders.push_back(one_forward_one_back(s, stages, micro_batches));
  std::vector<size_t> next(S, 0);
  std::vector<int64_t> now(S, 0);
  for (bool moved = true; moved;) {
    moved = false;
    for (size_t s = 0; s < S; ++s) {
      if (next[s] == orders[s].size()) continue;
      const auto [is_forward, micro_batch] = orders[s][next[s]];
      const auto i = static_cast<size_t>(micro_batch);
      const int64_t input = is_forward ? (s == 0 ? 0 : forward[s - 1][i]) : (s + 1 == S ? 0 : back[s + 1][i]);
      if (input < 0) continue;  // not there yet
      now[s] = std::max(now[s], input) + (is_forward ? 1 : 2);
      (is_forward ? forward : back)[s][i] = now[s];
      ++next[s];
      moved = true;
    }
  }
  return *std::max_element(now.begin(), now.end());
}

TEST(OneForwardOneBack, WaitsForTheBubbleAlone) {
  for (int64_t stages = 1; stages <= 6; ++stages)
    for (int64_t micro_batches = 1; micro_batches <= 12; ++micro_batches) {
      EXPECT_EQ(simulated_time(stages, micro_batches), 3 * (micro_batches + stages - 1))
          << stages << " stages, " << micro_batches << " micro-batches";
      const double work = 3 * static_cast<double>(micro_batches),
                   all = static_cast<double>(simulated_time(stages, micro_batches));
      EXPECT_DOUBLE_EQ(pipeline_bubble(stages, micro_batches), 1 - work / all);
    }
}

// Stage s multiplies by s + 2 and adds the number of the micro-batch; the gradient of the result is 1.
class Multiplier : public StageRunner {
 public:
  Multiplier(int stage, int stages) : stage_(stage), stages_(stages), device_(DeviceType::kCpu, 1) {}
  std::vector<Tensor> inputs(int64_t) override { return stage_ == 0 ? none() : room(); }
  std::vector<Tensor> forward(int64_t i, std::vector<Tensor> inputs) override {
    ++in_flight_;
    most_in_flight = std::max(most_in_flight, in_flight_);
    const double x = stage_ == 0 ? static_cast<double>(i) : *inputs[0].data<double>();
    const double y = x * (stage_ + 2) + static_cast<double>(i);
    if (stage_ + 1 == stages_) results.push_back(y);
    return stage_ + 1 == stages_ ? none() : room(y);
  }
  std::vector<Tensor> output_gradients(int64_t) override { return stage_ + 1 == stages_ ? none() : room(); }
  std::vector<Tensor> backward(int64_t, std::vector<Tensor> gradients) override {
    --in_flight_;
    const double dy = stage_ + 1 == stages_ ? 1 : *gradients[0].data<double>();
    if (stage_ == 0) results.push_back(dy * (stage_ + 2));
    return stage_ == 0 ? none() : room(dy * (stage_ + 2));
  }
  std::vector<double> results;  // of the last stage its outputs, of the first the gradients of its inputs
  int64_t most_in_flight = 0;

 private:
  static std::vector<Tensor> none() { return {}; }
  std::vector<Tensor> room(double value = 0) {
    return {tensor_from(std::span<const double>(&value, 1), {1}, DType::kF64, device_)};
  }
  int stage_, stages_;
  Device device_;
  int64_t in_flight_ = 0;
};

TEST(RunSchedule, CarriesValuesForwardAndGradientsBack) {
  for (const int64_t micro_batches : {1, 2, 7}) {
    std::vector<double> outputs, gradients;
    run_ranks(3, [&](Communicator& pipe) {
      Multiplier stage(pipe.rank(), pipe.size());
      run_schedule(stage, pipe, micro_batches);
      EXPECT_EQ(stage.most_in_flight, std::min<int64_t>(3 - pipe.rank(), micro_batches));
      if (pipe.rank() == 0) gradients = stage.results;
      if (pipe.rank() == 2) outputs = stage.results;
    });
    std::vector<double> expected;
    for (int64_t i = 0; i < micro_batches; ++i) {
      const auto x = static_cast<double>(i);
      expected.push_back(((x * 2 + x) * 3 + x) * 4 + x);
    }
    EXPECT_EQ(outputs, expected);
    EXPECT_EQ(gradients, std::vector<double>(static_cast<size_t>(micro_batches), 2 * 3 * 4));
  }
}

std::vector<UnitCost> equal_blocks(int64_t blocks, UnitCost embedding, UnitCost head) {
  std::vector<UnitCost> units{embedding};
  units.insert(units.end(), static_cast<size_t>(blocks), {10, 5});
  units.push_back(head);
  return units;
}

TEST(EvenSplit, FirstAndLastAreLighterByEmbeddingAndHead) {
  using Split = std::vector<int64_t>;
  EXPECT_EQ(even_split(equal_blocks(8, {}, {}), 1), Split{8});
  EXPECT_EQ(even_split(equal_blocks(8, {}, {}), 4), (Split{2, 2, 2, 2}));
  EXPECT_EQ(even_split(equal_blocks(8, {0, 0}, {20, 10}), 2), (Split{5, 3}));  // the head is two blocks
  EXPECT_EQ(even_split(equal_blocks(10, {0, 10}, {20, 10}), 4), (Split{3, 3, 3, 1}));
  EXPECT_EQ(even_split(equal_blocks(10, {0, 10}, {10, 10}), 4), (Split{2, 3, 3, 2}));  // 3 somewhere anyway
  EXPECT_EQ(even_split(equal_blocks(3, {0, 99}, {500, 99}), 3), (Split{1, 1, 1}));     // at least one each
}

TEST(EvenSplit, IsTheBestOfAll) {
  const std::vector<UnitCost> units{{0, 7}, {3, 1}, {9, 4}, {2, 6}, {7, 2}, {4, 4}, {8, 3}, {1, 1}, {6, 9}};
  const int64_t L = 7;
  const auto judge = [&](const std::vector<int64_t>& split) {
    std::pair<double, double> worst_and_squares{0, 0};
    for (size_t s = 0; s < split.size(); ++s) {
      const StageBlocks stage = blocks_of_stage(split, static_cast<int64_t>(s));
      UnitCost sum;
      for (int64_t u = stage.first() ? 0 : stage.begin + 1; u <= (stage.last() ? L + 1 : stage.end); ++u) {
        sum.flops += units[static_cast<size_t>(u)].flops;
        sum.elements += units[static_cast<size_t>(u)].elements;
      }
      worst_and_squares.first = std::max(worst_and_squares.first, sum.flops);
      worst_and_squares.second += sum.elements * sum.elements;
    }
    return worst_and_squares;
  };
  std::pair<double, double> best{1e9, 1e9};
  for (int64_t a = 1; a <= L - 2; ++a)
    for (int64_t b = 1; a + b <= L - 1; ++b) best = std::min(best, judge({a, b, L - a - b}));
  EXPECT_EQ(judge(even_split(units, 3)), best);
}

TEST(StageBlocks, EveryParameterHasItsStage) {
  const std::vector<int64_t> split{2, 1, 3};
  for (const bool tied : {false, true})
    for (int64_t unit = 0; unit <= 7; ++unit) {
      Parameter p;
      p.unit = unit;
      p.tied = tied && unit == 0;
      std::string stages;
      for (int64_t s = 0; s < 3; ++s)
        if (blocks_of_stage(split, s).has(p)) stages += str(s);
      const char* expected[] = {"0", "0", "0", "1", "2", "2", "2", "2"};
      EXPECT_EQ(stages, p.tied ? "02" : expected[unit]) << unit;
    }
}

}  // namespace
}  // namespace rookery
