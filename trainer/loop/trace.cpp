// trace.cpp: slices as events (trainer/loop/trace.h).
#include "trainer/loop/trace.h"

#include <nlohmann/json.hpp>

#include "kernels/base/error.h"

namespace rookery::loop {
namespace {

constexpr int kProcess = 1, kHost = 1, kGpu = 2;

const char* name_of(Profile::Kind kind) {
  switch (kind) {
    case Profile::Kind::kPhase:
      return "phase";
    case Profile::Kind::kForward:
      return "forward";
    case Profile::Kind::kBackward:
      return "backward";
    case Profile::Kind::kKernel:
      return "kernel";
  }
  return "?";
}

nlohmann::json thread_name(int thread, const std::string& name) {
  return {
      {"ph", "M"}, {"name", "thread_name"}, {"pid", kProcess}, {"tid", thread}, {"args", {{"name", name}}}};
}

}  // namespace

nlohmann::json chrome_trace(const Profile& profile, const Device& device) {
  const auto& points = profile.points();
  std::vector<double> host, own;  // microseconds of each point
  for (const TimePoint& p : points) {
    host.push_back(1e6 * p.host_seconds_since(points[0]));
    if (!device.on_host()) own.push_back(1e6 * p.seconds_since(points[0]));
  }
  nlohmann::json events = nlohmann::json::array();
  events.push_back(thread_name(kHost, "host"));
  if (!own.empty()) events.push_back(thread_name(kGpu, device.accelerator().name()));
  for (const Profile::Slice& s : profile.slices()) {
    nlohmann::json event{{"ph", "X"}, {"name", s.name}, {"cat", name_of(s.kind)}, {"pid", kProcess}};
    if (!s.shapes.empty()) event["args"] = {{"shapes", s.shapes}};
    auto add = [&](int thread, const std::vector<double>& at) {
      event["tid"] = thread;
      event["ts"] = at[s.begin];
      event["dur"] = at[s.end] - at[s.begin];
      events.push_back(event);
    };
    add(kHost, host);
    if (!own.empty()) add(kGpu, own);
  }
  for (size_t i = 0; i < points.size(); ++i)
    events.push_back(
        {{"ph", "C"},
         {"name", "memory"},
         {"pid", kProcess},
         {"ts", host[i]},
         {"args",
          {{"persistent_bytes", profile.memory()[i].persistent}, {"step_bytes", profile.memory()[i].step}}}});
  return {{"displayTimeUnit", "ms"}, {"traceEvents", events}};
}

StepTrace::StepTrace(Device& device, io::fs::path file, int64_t steps)
    : device_(device), file_(std::move(file)), wanted_(steps) {}

void StepTrace::begin_step() {
  if (seen_++ < kFirst) return;
  if (!profile_) profile_.emplace(device_);
  begin("step");
}

void StepTrace::end_step() {
  end();
  if (profile_) ++traced_;
}

void StepTrace::begin(const char* name) {
  if (!profile_) return;
  device_.profile = &*profile_;
  profile_->begin(name, Profile::Kind::kPhase);
}

void StepTrace::end() {
  if (!profile_) return;
  profile_->end();
  device_.profile = nullptr;  // what comes between, such as evaluation, is not in it
}

std::string StepTrace::write() {
  if (!profile_)
    return str("--profile: found ", seen_, " steps, expected more than the first ", kFirst,
               ", which are left out; nothing was written");
  io::write_file_atomic(file_, chrome_trace(*profile_, device_).dump() + "\n", "run.trace");
  return str("profile of ", traced_, traced_ == 1 ? " step" : " steps", " in ", file_.string(),
             ": open it in chrome://tracing or ui.perfetto.dev");
}

}  // namespace rookery::loop
