// profile.h: when a device did what. Slices come from Range (device.h), so from every kernel, and from the
// tape, for every operation forward and backward. trainer/loop/trace.h writes them to a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/tensor/accelerator.h"

namespace rookery {

class Device;

// Now on the host; on a GPU also the end of the work asked for so far.
class TimePoint {
 public:
  explicit TimePoint(const Device& device);
  double host_seconds_since(const TimePoint& earlier) const { return host_ - earlier.host_; }
  // On the device's own clock: on a GPU the time of its work, which is waited for.
  double seconds_since(const TimePoint& earlier) const;

 private:
  double host_;
  std::unique_ptr<Mark> mark_;  // of a GPU
};

// While it lives, what its device does becomes slices: nested, in the order of their ends. Not for work that
// is captured (Device::capture).
class Profile {
 public:
  enum class Kind : uint8_t { kPhase, kForward, kBackward, kKernel };

  explicit Profile(Device& device);
  ~Profile();
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;

  void begin(std::string_view name, Kind kind);
  void describe(std::string shapes) { open_.back().slice.shapes = std::move(shapes); }  // the one begun last
  void end() noexcept;  // of the one begun last
  // A slice from the last that ended here, or from the beginning of the one around, until now: an operation
  // is known when it is recorded.
  void forward(std::string_view name, std::string shapes);

  struct Slice {
    std::string name, shapes;
    Kind kind;
    size_t begin, end;  // in points
  };
  const std::vector<Slice>& slices() const { return slices_; }
  const std::vector<TimePoint>& points() const { return points_; }  // the first: when it was made
  // Bytes in use at each point.
  struct Memory {
    size_t persistent, step;
  };
  const std::vector<Memory>& memory() const { return memory_; }

 private:
  struct Open {
    Slice slice;
    size_t forward_from;  // where the next operation inside begins
  };
  size_t now();
  Device& device_;
  std::vector<TimePoint> points_;
  std::vector<Memory> memory_;
  std::vector<Slice> slices_;
  std::vector<Open> open_;  // outermost first; [0] is the profile itself
};

}  // namespace rookery
