// options.h: how the emulator runs kernels: what a test varies to bring a hidden fault to light.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace rookery::emulator {

// Which thread of a block goes on at a rendezvous.
enum class Order : uint8_t {
  kAscending,
  kDescending,
  kRandom,
  kLastLanesFirst,  // lane 31 of every warp, then lane 30, ...
  kOneWarpAhead,    // one warp, drawn by the seed, runs whenever it can
};
std::string to_string(Order order);

// When a cp.async copies between its issue and the wait for it.
enum class CopyTime : uint8_t { kLate, kEarly, kRandom };
std::string to_string(CopyTime time);

struct Options {
  Order order = Order::kAscending;
  CopyTime copies = CopyTime::kLate;
  uint64_t seed = 1;                // of all that is random
  bool shuffle_blocks = false;      // run the blocks of a grid in random order
  bool shuffle_sums = false;        // add the products of an mma in random order
  bool races = true;                // find races, and reads of shared memory that nobody has written
  bool barrier_after_exit = false;  // let a block barrier pass although threads of the block have returned
  bool source_lines = true;         // in reports: addr2line takes a while
};
std::string to_string(const Options& options);

// The options of this thread's launches while the object lives; without one the defaults hold.
class ScopedOptions {
 public:
  explicit ScopedOptions(const Options& options);
  ~ScopedOptions();
  ScopedOptions(const ScopedOptions&) = delete;
  ScopedOptions& operator=(const ScopedOptions&) = delete;

 private:
  Options options_;
  const Options* outer_;
};
const Options& current_options();

// For a GuardWatch (kernels/tensor/guard.h): kernels of this thread must not touch these bytes.
void forbid_memory(const std::byte* begin, size_t bytes, bool forbidden);

}  // namespace rookery::emulator
