// async.cpp: named barriers, mbarriers, cp.async. A copy happens as late as its wait allows, at its issue, or
// at random between (CopyTime); the race detector knows it as under way until it has been waited for.
#include "kernels/emul/async.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/emul/machine.h"

namespace rookery::emulator {

void Async::begin_block(int threads) {
  named_.fill({});
  barriers_.clear();
  queues_.assign(static_cast<size_t>(threads), {});
  arrivals_.clear();
  undone_ = 0;
}

// As barrier.cta.sync and .arrive of the PTX ISA: a thread waits for its warp, whose threads arrive as one
// and count as 32.
void Async::named_barrier(int id, int threads, bool waits, Site site) {
  if (id < 1 || id > 15)
    machine_.fault("named barrier ", id, " of ", site, ": expected 1 to 15 (0 is that of __syncthreads)");
  const int all = machine_.threads(), warps = (all + kWarpSize - 1) / kWarpSize;
  if (threads < kWarpSize || threads % kWarpSize != 0 || threads > warps * kWarpSize)
    machine_.fault("named barrier ", id, " of ", site, " for ", threads, " threads: expected a multiple of ",
                   kWarpSize, ", at most the ", all, " of the block");
  WarpArrival arrival{id, threads, waits, site, 0};
  const int lanes = std::min(kWarpSize, all - machine_.self().warp * kWarpSize);
  machine_.warp_op(
      WarpOpKind::kNamedBarrier, ~uint32_t{0} >> (kWarpSize - lanes), site, &arrival,
      [](const auto& operands, uint32_t mask) { Machine::current().async().arrive(operands, mask); });
  if (waits && named_[static_cast<size_t>(id)].phase == arrival.phase) machine_.wait("named barrier", site);
}

// All lanes of the running thread's warp.
void Async::arrive(const std::array<void*, kWarpSize>& lanes, uint32_t mask) {
  const int warp = machine_.self().warp, count = std::popcount(mask);
  const auto lane = [&](int i) -> WarpArrival& {
    return *static_cast<WarpArrival*>(lanes[static_cast<size_t>(i)]);
  };
  const auto [id, threads, waits, site, _] = lane(0);
  for (int i = 1; i < count; ++i) {
    const WarpArrival& other = lane(i);
    if (other.id != id || other.waits != waits)
      machine_.fault("divergent warp ", warp, ": lane ", i, other.waits ? " waits" : " arrives",
                     " at named barrier ", other.id, " of ", site, ", lane 0 ", waits ? "waits" : "arrives",
                     " at ", id);
    if (other.threads != threads)
      machine_.fault("named barrier ", id, ": ", other.threads, " threads are expected at ", site,
                     " by lane ", i, " of warp ", warp, ", ", threads, " by lane 0");
  }
  NamedBarrier& barrier = named_[static_cast<size_t>(id)];
  if (barrier.arrived == 0) {
    barrier.expected = threads;
    barrier.site = site;
  } else if (barrier.expected != threads) {
    machine_.fault("named barrier ", id, ": ", threads, " threads are expected at ", site, ", ",
                   barrier.expected, " at ", barrier.site);
  }
  if (barrier.warps[static_cast<size_t>(warp)])
    machine_.fault("named barrier ", id, ": warp ", warp, " arrives again at ", site, " before the ",
                   barrier.expected, " threads of ", barrier.site, " have come");
  barrier.warps.set(static_cast<size_t>(warp));
  for (int i = 0; i < count; ++i) {
    Thread& thread = machine_.thread(warp * kWarpSize + i);
    machine_.races().release(thread.id, barrier.clock);
    lane(i).phase = barrier.phase;
    if (waits) barrier.waiting.push_back(&thread);
  }
  barrier.arrived += kWarpSize;
  if (barrier.arrived < barrier.expected) return;
  for (Thread* thread : barrier.waiting) {
    machine_.races().acquire(thread->id, barrier.clock);
    machine_.make_ready(*thread);
  }
  const int64_t next = barrier.phase + 1;
  barrier = {};
  barrier.phase = next;
}

// --- mbarriers: kept here; the 8 bytes in shared memory only stand for them ---

void Async::init_barrier(void* barrier, uint32_t arrivals, Site site, uintptr_t where) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(barrier);
  if (!machine_.is_shared(barrier, 8) || address % 8 != 0)
    machine_.fault("the mbarrier of ", site, " is not 8 aligned bytes of shared memory");
  if (arrivals < 1 || arrivals >= (1u << 20))
    machine_.fault("the mbarrier of ", site, " expects ", arrivals, " arrivals: 1 to 1048575 can be");
  if (const auto old = barriers_.find(barrier); old != barriers_.end()) {
    if (old->second.pending != old->second.expected || !old->second.waiting.empty() || old->second.late > 0)
      machine_.fault("the mbarrier of ", site, " is in use since ", old->second.site);
    barriers_.erase(old);
  } else {
    machine_.note(Access::kWrite, address, 8, where);
    machine_.races().set_use(static_cast<char*>(barrier), 8, RaceDetector::Use::kBarrier);
  }
  const int self = machine_.self().id;
  barriers_[barrier] = {arrivals, arrivals, 0, site, self, machine_.races().stamp(self), {}, {}, {}, 0};
}

Async::MBarrier& Async::barrier_at(void* address, Site site) {
  const auto found = barriers_.find(address);
  if (found == barriers_.end()) machine_.fault("the mbarrier of ", site, " has not been initialised");
  MBarrier& barrier = found->second;
  if (!machine_.races().ordered(barrier.initialiser, barrier.initialised_at, machine_.self().id))
    machine_.fault("race: thread ", machine_.self().id, " uses an mbarrier at ", site, "\n  that thread ",
                   barrier.initialiser, " initialises at ", barrier.site,
                   "\n  with nothing that orders the two");
  return barrier;
}

void Async::arrive(MBarrier& barrier, const VectorClock& clock) {
  if (barrier.clock.size() < clock.size()) barrier.clock.resize(clock.size());
  for (size_t i = 0; i < clock.size(); ++i) barrier.clock[i] = std::max(barrier.clock[i], clock[i]);
  if (--barrier.pending > 0) return;
  if (barrier.late > 0)
    machine_.fault("the mbarrier of ", barrier.site, " ends phase ", barrier.phase,
                   " while a thread has not yet seen the end of phase ", barrier.phase - 1,
                   ": it would wait for ever");
  barrier.phases[barrier.phase % 2] = std::move(barrier.clock);
  barrier.clock.clear();
  ++barrier.phase;
  barrier.pending = barrier.expected;
  barrier.late = static_cast<int>(barrier.waiting.size());
  for (Thread* thread : barrier.waiting) machine_.make_ready(*thread);
  barrier.waiting.clear();
}

void Async::arrive(void* address, Site site) {
  MBarrier& barrier = barrier_at(address, site);
  VectorClock clock;
  machine_.races().release(machine_.self().id, clock);
  arrive(barrier, clock);
}

void Async::wait_barrier(void* address, uint32_t parity, Site site) {
  MBarrier& barrier = barrier_at(address, site);
  if (barrier.phase % 2 == parity % 2) {
    barrier.waiting.push_back(&machine_.self());
    machine_.wait("mbarrier", site);
    --barrier.late;
  }
  machine_.races().acquire(machine_.self().id, barrier.phases[parity % 2]);
}

// --- copies ---

void Async::copy(void* to, const void* from, bool valid, Site site, uintptr_t where) {
  const uintptr_t target = reinterpret_cast<uintptr_t>(to), source = reinterpret_cast<uintptr_t>(from);
  if (!machine_.is_shared(to, 16))
    machine_.fault("the cp_async16 of ", site, " does not go to shared memory");
  if (machine_.is_shared(from, 1))
    machine_.fault("the cp_async16 of ", site, " does not come from global memory");
  if (target % 16 != 0 || source % 16 != 0)
    machine_.fault("the cp_async16 of ", site, ": an address is not a multiple of 16 bytes");
  if (valid) machine_.note(Access::kRead, source, 16, where);
  machine_.note(Access::kWrite, target, 16, where);
  machine_.races().set_use(static_cast<char*>(to), 16, RaceDetector::Use::kCopy);
  Queue& queue = queues_[static_cast<size_t>(machine_.self().id)];
  queue.copies.push_back({static_cast<char*>(to), static_cast<const char*>(from), valid, false, queue.group});
  ++undone_;
  if (machine_.options().copies == CopyTime::kEarly) {
    perform(queue.copies.back());
  } else {
    std::memset(to, 0xff, 16);  // NaNs
  }
}

void Async::perform(Copy& copy) {
  if (copy.done) return;
  if (copy.valid) {
    std::memcpy(copy.to, copy.from, 16);
  } else {
    std::memset(copy.to, 0, 16);
  }
  copy.done = true;
  --undone_;
}

void Async::commit() { ++queues_[static_cast<size_t>(machine_.self().id)].group; }

void Async::wait_copies(int groups_left) {
  const int self = machine_.self().id;
  Queue& queue = queues_[static_cast<size_t>(self)];
  const auto waited_for = [&](const Copy& copy) { return copy.group < queue.group - groups_left; };
  for (Copy& copy : queue.copies) {
    if (!waited_for(copy)) continue;
    perform(copy);
    machine_.races().complete_copy(self, copy.to, 16, machine_.races().stamp(self));
  }
  std::erase_if(queue.copies, waited_for);
}

void Async::arrive_after_copies(void* address, Site site) {
  barrier_at(address, site);
  const int self = machine_.self().id;
  Queue& queue = queues_[static_cast<size_t>(self)];
  Arrival arrival{address, self, machine_.races().stamp(self), {}, std::move(queue.copies), site};
  queue.copies.clear();
  machine_.races().release(self, arrival.clock);
  if (machine_.options().copies == CopyTime::kEarly) {
    finish(std::move(arrival));
  } else {
    arrivals_.push_back(std::move(arrival));
  }
}

void Async::finish(Arrival arrival) {
  for (Copy& copy : arrival.copies) {
    perform(copy);
    machine_.races().complete_copy(arrival.thread, copy.to, 16, arrival.stamp);
  }
  arrive(barriers_.at(arrival.barrier), arrival.clock);
}

bool Async::finish_something() {
  if (arrivals_.empty()) return false;
  const size_t i = machine_.options().copies == CopyTime::kRandom ? machine_.random() % arrivals_.size() : 0;
  Arrival arrival = std::move(arrivals_[i]);
  arrivals_.erase(arrivals_.begin() + static_cast<std::ptrdiff_t>(i));
  finish(std::move(arrival));
  return true;
}

void Async::at_random_step() {
  if (machine_.options().copies != CopyTime::kRandom || undone_ == 0 || machine_.random() % 4 != 0) return;
  if (!arrivals_.empty() && machine_.random() % 2 == 0) {
    finish_something();
    return;
  }
  Queue& queue = queues_[machine_.random() % queues_.size()];
  if (!queue.copies.empty()) perform(queue.copies[machine_.random() % queue.copies.size()]);
}

void Async::thread_ends() {
  if (!queues_[static_cast<size_t>(machine_.self().id)].copies.empty())
    machine_.fault("thread ", machine_.self().id, " returns with a cp_async16 that it has not waited for");
}

void named_barrier(int id, int threads, bool waits, Site site) {
  if (!Machine::current().removed(waits ? "named barrier" : "arrival at a named barrier", site))
    Machine::current().async().named_barrier(id, threads, waits, site);
}
void mbarrier_init(void* barrier, uint32_t arrivals, Site site) {
  Machine::current().async().init_barrier(barrier, arrivals, site,
                                          reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
}
void mbarrier_arrive(void* barrier, Site site) {
  if (!Machine::current().removed("mbarrier_arrive", site)) Machine::current().async().arrive(barrier, site);
}
void mbarrier_wait(void* barrier, uint32_t parity, Site site) {
  if (!Machine::current().removed("mbarrier_wait", site))
    Machine::current().async().wait_barrier(barrier, parity, site);
}
void cp_async16(void* to, const void* from, bool valid, Site site) {
  Machine::current().async().copy(to, from, valid, site,
                                  reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
}
void cp_async_commit(Site site) {
  if (!Machine::current().removed("cp_async_commit", site)) Machine::current().async().commit();
}
void cp_async_wait(int groups_left, Site site) {
  if (!Machine::current().removed("cp_async_wait", site)) Machine::current().async().wait_copies(groups_left);
}
void cp_async_mbarrier_arrive(void* barrier, Site site) {
  if (!Machine::current().removed("cp_async_mbarrier_arrive", site))
    Machine::current().async().arrive_after_copies(barrier, site);
}

}  // namespace rookery::emulator
