// trace.h: `rookery train --profile`: some steps of a run as a file that chrome://tracing and
// ui.perfetto.dev show. What is in it: kernels/tensor/profile.h.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "kernels/base/io.h"
#include "kernels/tensor/device.h"

namespace rookery::loop {

// Chrome's trace format: complete events ("ph": "X", microseconds from the beginning) on the thread "host"
// and, where the device is a GPU, on another of its own time; "memory" counts the bytes in use.
nlohmann::json chrome_trace(const Profile& profile, const Device& device);

// RUN/trace.json of `steps` steps and the saves between and after them, the first two of the process left
// out: they plan the memory and measure matrix products.
class StepTrace {
 public:
  StepTrace(Device& device, io::fs::path file, int64_t steps);
  // Around each step of the run.
  void begin_step();
  void end_step();
  // Around what else belongs into it, a slice of this name; nothing before the first step that is in it.
  void begin(const char* name);
  void end();
  bool complete() const { return traced_ == wanted_; }
  // Once, when complete or at the end of a run that had fewer steps. What there is to say about it.
  std::string write();

 private:
  static constexpr int64_t kFirst = 2;
  Device& device_;
  io::fs::path file_;
  int64_t wanted_, seen_ = 0, traced_ = 0;
  std::optional<Profile> profile_;
};

}  // namespace rookery::loop
