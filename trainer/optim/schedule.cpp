#include "trainer/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rookery {

double Schedule::at(int64_t step) const {
  auto fraction = [](int64_t done, int64_t of) {
    return of <= 0 ? (done >= 0 ? 1.0 : 0.0)
                   : std::clamp(static_cast<double>(done) / static_cast<double>(of), 0.0, 1.0);
  };
  double rate = lr;
  switch (kind) {
    case ScheduleKind::kCosine: {
      const double p = fraction(step - warmup_steps, total_steps - warmup_steps), f = lr_final / lr;
      rate = lr * ((1 + f) / 2 + (1 - f) / 2 * std::cos(std::numbers::pi * p));
      break;
    }
    case ScheduleKind::kQuarterCosine:
      rate = lr_final + (lr - lr_final) * std::cos(std::numbers::pi / 2 *
                                                   fraction(step - warmup_steps, total_steps - warmup_steps));
      break;
    case ScheduleKind::kLinear:
      rate = lr + (lr_final - lr) * fraction(step - warmup_steps, total_steps - warmup_steps);
      break;
    case ScheduleKind::kConstant:
      break;
    case ScheduleKind::kWsd:
      rate = lr + (lr_final - lr) * fraction(step - (total_steps - decay_steps), decay_steps);
      break;
  }
  if (step < warmup_steps)
    rate *= warmup_from + (1 - warmup_from) * static_cast<double>(step) / static_cast<double>(warmup_steps);
  return rate;
}

}  // namespace rookery
