// schedule.h: the learning rate as a function of the step (rwkv-common 8), counted over the whole run: a
// resumed run goes on, it does not warm up again.
#pragma once

#include <cstdint>

namespace rookery {

enum class ScheduleKind { kCosine, kQuarterCosine, kLinear, kConstant, kWsd };

struct Schedule {
  ScheduleKind kind = ScheduleKind::kCosine;
  double lr = 4e-4, lr_final = 1e-5;
  int64_t warmup_steps = 10;
  double warmup_from = 0.01;  // factor of step 0
  int64_t total_steps = 1;
  int64_t decay_steps = 0;  // wsd: the last steps, over which lr falls linearly to lr_final

  // step: 0 is the first update. With p = (step - warmup) / (total - warmup) clamped to [0, 1], cosine is
  // half a wave, cos(pi p), and quarter cosine cos(pi p / 2): steepest at the end.
  double at(int64_t step) const;
};

}  // namespace rookery
