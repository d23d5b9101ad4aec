// profile.cpp: slices as they come (kernels/tensor/profile.h).
#include "kernels/tensor/profile.h"

#include <chrono>

#include "kernels/base/error.h"
#include "kernels/tensor/device.h"

namespace rookery {

TimePoint::TimePoint(const Device& device)
    : host_(std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count()),
      mark_(device.on_host() ? nullptr : device.accelerator().mark()) {}

double TimePoint::seconds_since(const TimePoint& earlier) const {
  return mark_ ? mark_->seconds_since(*earlier.mark_) : host_seconds_since(earlier);
}

Profile::Profile(Device& device) : device_(device) {
  RK_CHECK(device.profile == nullptr, "[Profile] the device has one");
  if (!device.on_host()) device.accelerator().synchronize();  // so that both clocks begin together
  open_.push_back({{"", "", Kind::kPhase, 0, 0}, now()});
  device.profile = this;
}

Profile::~Profile() { device_.profile = nullptr; }

size_t Profile::now() {
  points_.emplace_back(device_);
  memory_.push_back({device_.arena().persistent_bytes(), device_.arena().step_bytes()});
  return points_.size() - 1;
}

void Profile::begin(std::string_view name, Kind kind) {
  const size_t at = now();
  open_.push_back({{std::string(name), "", kind, at, at}, at});
}

void Profile::end() noexcept {
  Slice slice = std::move(open_.back().slice);
  open_.pop_back();
  try {
    slice.end = now();
  } catch (const Error&) {
    return;  // a GPU that failed: its next call tells
  }
  // Kernels are parts of the operation around them, which is not over.
  if (slice.kind != Kind::kKernel) open_.back().forward_from = slice.end;
  slices_.push_back(std::move(slice));
}

void Profile::forward(std::string_view name, std::string shapes) {
  const size_t at = now();
  slices_.push_back({std::string(name), std::move(shapes), Kind::kForward, open_.back().forward_from, at});
  open_.back().forward_from = at;
}

}  // namespace rookery
