// async.h: what a block's threads wait for besides each other: named barriers, mbarriers, and copies that run
// on beside the thread that issued them.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <map>
#include <vector>

#include "kernels/emul/options.h"
#include "kernels/emul/race.h"
#include "kernels/emul/words.h"

namespace rookery::emulator {

class Machine;
struct Thread;

class Async {
 public:
  explicit Async(Machine& machine) : machine_(machine) {}
  void begin_block(int threads);

  void named_barrier(int id, int threads, bool waits, Site site);

  void init_barrier(void* barrier, uint32_t arrivals, Site site, uintptr_t where);
  void arrive(void* barrier, Site site);
  void wait_barrier(void* barrier, uint32_t parity, Site site);

  void copy(void* to, const void* from, bool valid, Site site, uintptr_t where);
  void commit();
  void wait_copies(int groups_left);
  void arrive_after_copies(void* barrier, Site site);

  void at_random_step();    // now and then lets a copy happen
  bool finish_something();  // when no thread can run: false if nothing is under way
  void thread_ends();       // faults if the thread leaves copies behind

 private:
  // Warps arrive at it, each for 32 threads.
  struct NamedBarrier {
    int expected = 0, arrived = 0;  // threads
    std::bitset<kMaxThreads / kWarpSize> warps;
    Site site;
    VectorClock clock;
    std::vector<Thread*> waiting;
    int64_t phase = 0;
  };
  struct WarpArrival {  // of a lane
    int id, threads;
    bool waits;
    Site site;
    int64_t phase;
  };
  struct MBarrier {
    uint32_t expected, pending, phase;
    Site site;  // of its initialisation
    int initialiser;
    uint32_t initialised_at;
    VectorClock clock;                  // of the arrivals of this phase
    std::array<VectorClock, 2> phases;  // of the last phase of each parity
    std::vector<Thread*> waiting;       // for this phase
    int late = 0;                       // threads that were woken for the last phase and have not yet run
  };
  struct Copy {
    char* to;
    const char* from;
    bool valid, done;
    int group;
  };
  struct Queue {  // of one thread
    std::vector<Copy> copies;
    int group = 0;  // that is open; those below are committed
  };
  struct Arrival {  // that follows the copies which its thread had issued
    void* barrier;
    int thread;
    uint32_t stamp;
    VectorClock clock;
    std::vector<Copy> copies;
    Site site;
  };
  void arrive(const std::array<void*, kWarpSize>& lanes, uint32_t mask);
  MBarrier& barrier_at(void* address, Site site);
  void arrive(MBarrier& barrier, const VectorClock& clock);
  void perform(Copy& copy);
  void finish(Arrival arrival);

  Machine& machine_;
  std::array<NamedBarrier, 16> named_;
  std::map<void*, MBarrier> barriers_;
  std::vector<Queue> queues_;
  std::vector<Arrival> arrivals_;
  int undone_ = 0;  // copies
};

}  // namespace rookery::emulator
