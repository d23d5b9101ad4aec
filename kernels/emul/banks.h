// banks.h: bank conflicts of shared memory: how often a request of a warp has to wait because several of its
// lanes want different words of one bank. The machine tells it what is touched; docs/kernels.md shows it.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <utility>
#include <vector>

namespace rookery::emulator {

// The requests of one access in a kernel's code. Shared memory has 32 banks of 4 bytes: a request takes one
// step for each 128 bytes, or as many as the fullest bank has different words.
struct BankConflicts {
  uint64_t requests = 0;
  uint64_t least = 0;  // steps without a conflict
  uint64_t steps = 0;
  double worst = 1;  // steps / least of one request
};
// By kernel and return address in its code.
using BankReport = std::map<std::pair<const void*, uintptr_t>, BankConflicts>;

// What the launches of this thread during `body` did; needs kernels with the race detector's hooks.
BankReport bank_conflicts(const std::function<void()>& body);

// Puts the requests of warps together from the accesses of their lanes, which run one after the other: lanes
// that come by an access for the same time in a block make the same request.
class BankCounter {
 public:
  void begin_block(const void* kernel, uintptr_t shared, int threads);
  void note(int thread, uintptr_t address, size_t bytes, uintptr_t where);
  void end_block();
  const BankReport& report() const { return report_; }

 private:
  struct Request {
    uint32_t lanes = 0;
    size_t bytes = 0;  // of a lane
    std::array<uint32_t, 32> offset;
  };
  struct Stream {  // of one access and one warp
    std::array<uint64_t, 32> times{};
    uint64_t first = 0;  // of the pending requests
    std::deque<Request> pending;
  };
  void finish(const Request& request, BankConflicts& total) const;

  const void* kernel_ = nullptr;
  uintptr_t shared_ = 0;
  int threads_ = 0;
  std::map<std::pair<uintptr_t, int>, Stream> streams_;  // by address in the code and warp
  BankReport report_;
};

// Of this thread; null where nobody counts.
BankCounter* bank_counter();

}  // namespace rookery::emulator
