// schedule_test.cpp: learning rates at the points where their formulas (rwkv-common 8, goldfinch 8) have
// known values.
#include "trainer/optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace rookery {
namespace {

TEST(Schedule, Cosines) {
  Schedule s;
  s.lr = 6e-4, s.lr_final = 2e-4, s.warmup_steps = 10, s.warmup_from = 0.2, s.total_steps = 110;
  EXPECT_DOUBLE_EQ(s.at(0), 0.2 * 6e-4);
  EXPECT_DOUBLE_EQ(s.at(5), 0.6 * 6e-4);
  for (const ScheduleKind kind : {ScheduleKind::kCosine, ScheduleKind::kQuarterCosine}) {
    s.kind = kind;
    EXPECT_DOUBLE_EQ(s.at(10), 6e-4);
    EXPECT_NEAR(s.at(110), 2e-4, 1e-18);
    EXPECT_NEAR(s.at(1000), 2e-4, 1e-18);
  }
  s.kind = ScheduleKind::kCosine;
  EXPECT_NEAR(s.at(60), 4e-4, 1e-18);  // half of the way in the middle
  s.kind = ScheduleKind::kQuarterCosine;
  EXPECT_NEAR(s.at(60), 2e-4 + 4e-4 * std::sqrt(0.5), 1e-18);
  EXPECT_NEAR(s.at(10 + 67), 2e-4 + 4e-4 * std::cos(0.335 * M_PI), 1e-18);
}

}  // namespace
}  // namespace rookery
