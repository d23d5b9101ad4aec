// guard.h: who wants to know where the guard bytes of an Arena's blocks are (Arena::guard_blocks).
#pragma once

#include <cstddef>
#include <functional>

namespace rookery {

// While it lives, `watch` hears of guard bytes of this thread's arenas: forbidden from the allocation of a
// block to its release, both of which must fall into the life of this object. For tests; one at a time.
class GuardWatch {
 public:
  using Watch = std::function<void(const std::byte* begin, size_t bytes, bool forbidden)>;
  explicit GuardWatch(Watch watch);
  ~GuardWatch();
  GuardWatch(const GuardWatch&) = delete;
  GuardWatch& operator=(const GuardWatch&) = delete;

 private:
  Watch watch_;
};

}  // namespace rookery
