// race.h: which accesses of a block's threads are ordered by barriers, and a shadow of memory that finds
// those that are not. hooks.cpp and the wrappers tell it what is touched, machine.cpp and async.cpp what is
// ordered.
//
// Time is one counter that grows at every release. A thread stamps its accesses with its own clock, which is
// renewed from the counter whenever others may learn of what it did. An access of thread t with stamp c is
// ordered before thread u goes on if u = t, if a block barrier has completed since c, or if u has learnt of
// t's clock c (a vector clock per thread: FastTrack, Flanagan and Freund 2009). Numbers never repeat, so
// nothing has to be reset between barriers, blocks or launches.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/emul/words.h"

namespace rookery::emulator {

constexpr int kMaxThreads = 1024;  // of a block
constexpr int kWarpSize = 32;

using VectorClock = std::vector<uint32_t>;  // by thread; empty: knows nothing

class RaceDetector {
 public:
  RaceDetector();
  void begin_launch();
  void begin_block(const uint3& block, int threads, const char* shared, size_t shared_bytes);

  // --- order ---
  void block_barrier();                       // of all threads
  void syncwarp(int first, uint32_t mask);    // of the lanes of the warp whose first thread is `first`
  void release(int thread, VectorClock& to);  // `to` learns all that `thread` did and knows
  void acquire(int thread, const VectorClock& from);
  uint32_t stamp(int thread) const { return std::max(clock_[static_cast<size_t>(thread)], barrier_time_); }
  bool ordered(int thread, uint32_t stamp, int before) const {
    return thread == before || stamp < barrier_time_ || known(before)[thread] >= stamp;
  }

  // --- accesses: each returns what is wrong, or an empty string; `where` is an address in the kernel's code
  // ---
  std::string read(int thread, uintptr_t address, size_t bytes, uintptr_t where);
  std::string write(int thread, uintptr_t address, size_t bytes, uintptr_t where);

  // Shared memory that no ordinary access may touch, or may again.
  enum class Use : uint16_t { kData, kZone, kCopy, kBarrier };
  void set_use(const char* begin, size_t bytes, Use use);
  // The same for global memory: what lies beside tensors.
  void set_forbidden(uintptr_t begin, size_t bytes, bool forbidden);
  bool forbidden(uintptr_t address) { return cells_of(address)->use == Use::kZone; }
  // A copy behind the thread's back has been waited for: as if `thread` had written at `stamp`.
  void complete_copy(int thread, const char* begin, size_t bytes, uint32_t stamp);

 private:
  static constexpr uintptr_t kGranule = 2;  // bytes that share a cell
  static constexpr uintptr_t kPageBytes = 4096;

  // The last write and the reads since. A clock of 0: none.
  struct Cell {
    uint32_t write_clock, read_clock;  // of the reads the last
    uint32_t first_read;               // and the first
    uint32_t readers;                  // in readers_
    int32_t write_where, read_where;
    uint16_t writer;
    Use use;
  };
  // A set of readers is a list, shared by the cells that were read alike; 0 is empty.
  struct Reader {
    uint32_t others;
    uint32_t clock;
    uint32_t length;
    uint16_t thread;
  };
  struct Extension {
    uint32_t readers, clock, result;
    uint16_t thread;
  };
  struct Page {
    std::array<Cell, kPageBytes / kGranule> cells;
  };

  uint32_t* known(int thread) { return &known_[static_cast<size_t>(thread) * kMaxThreads]; }
  const uint32_t* known(int thread) const { return &known_[static_cast<size_t>(thread) * kMaxThreads]; }
  bool in_shared(uintptr_t address) const { return address - shared_ < shared_bytes_; }
  Cell* cells_of(uintptr_t address);
  std::span<Cell> shared_cells(const char* begin, size_t bytes);
  template <class Check>
  std::string each_cell(uintptr_t address, size_t bytes, const Check& check);
  uint32_t with_reader(uint32_t readers, int thread, uint32_t clock);
  uint32_t pruned(uint32_t readers, int thread);
  uint32_t new_set(uint32_t others, int thread, uint32_t clock);
  void forget_everything();
  std::string race(int thread, uintptr_t address, uintptr_t where, const char* what, const std::string& other,
                   const char* other_what, int32_t other_where) const;
  std::string block_at(uint32_t clock) const;

  uint32_t now_ = 1;
  uint32_t launch_start_ = 1, block_start_ = 1, barrier_time_ = 1;
  bool across_warps_ = false;  // a thread of this block has released to more than its warp
  int threads_ = 0;
  struct Block {
    uint32_t start;
    uint3 index;
  };
  std::vector<Block> blocks_;  // of this launch, in the order they ran
  std::array<uint32_t, kMaxThreads> clock_{};
  std::unique_ptr<uint32_t[]>
      known_;  // [kMaxThreads][kMaxThreads]: what each thread knows of the others' clocks

  uintptr_t shared_ = 0, shared_bytes_ = 0;
  std::vector<Cell> shared_cells_;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;  // of all other memory
  struct CachedPage {
    uintptr_t number;
    Page* page;
  };
  std::array<CachedPage, 64> cached_pages_{};
  std::vector<Reader> readers_;
  std::array<Extension, 1024> extensions_{};
};

}  // namespace rookery::emulator
