// arena.h: memory of one training step. The first step under a key runs on cached blocks while every request
// is noted with its birth and death; from these intervals a plan is packed, and later steps replay it:
// request i gets offset i of one slab. That gives constant addresses, no fragmentation, and a peak that is
// known and can be explained before the second step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace rookery {

class Accelerator;

class Arena {
 public:
  // kAddressesOnly: blocks of any size, which take no memory until somebody writes to them (for kMeta).
  enum class Memory : uint8_t { kReal, kAddressesOnly };
  explicit Arena(Memory memory = Memory::kReal) : memory_(memory) {}
  explicit Arena(Accelerator& accelerator) : accelerator_(&accelerator) {}  // memory of a GPU
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  struct Ticket {
    std::byte* data = nullptr;
    int64_t request = -1;  // index within the step; -1: not of a step
    uint64_t step = 0;
    bool guarded = false;
    int owner = 0;
  };
  // Memory aligned to 64 bytes; outside a step it comes from the heap and counts as persistent. Not zeroed.
  Ticket allocate(size_t bytes);
  void release(const Ticket& ticket, size_t bytes);

  // Between the two, requests are of the step `key` (e.g. "train"; one plan per key). A step that asks or
  // releases otherwise than its plan finishes on cached blocks and the plan is made anew; `on_replan` hears
  // why.
  void begin_step(const std::string& key);
  void end_step();
  std::function<void(const std::string&)> on_replan;

  struct Plan {
    size_t slab_bytes = 0;   // what replay needs
    size_t peak_bytes = 0;   // largest sum of live blocks: the floor of slab_bytes
    size_t total_bytes = 0;  // sum of all requests
    int64_t requests = 0;
  };
  const Plan* plan(const std::string& key) const;  // null before the first step under this key
  // Will a step of this key get the addresses that the last one had? It has followed its plan once, nothing
  // of it outlives it, and the slab is there. Until slab() changes: another key may need a larger one.
  bool repeats(const std::string& key) const;
  const std::byte* slab() const { return slab_; }
  size_t persistent_bytes() const { return persistent_bytes_; }
  size_t step_bytes() const { return step_bytes_; }  // of the blocks of this step that live now

  // Who holds the memory, for messages and plans: blocks asked for outside a step belong to the owner of the
  // innermost scope ("other" without one), all that a step takes to "step".
  struct Owned {
    std::string name;
    size_t bytes = 0, peak = 0;
  };
  const std::vector<Owned>& owners() const { return owners_; }
  class Owner {
   public:
    Owner(Arena& arena, const std::string& name);
    ~Owner() { arena_.owner_ = before_; }
    Owner(const Owner&) = delete;
    Owner& operator=(const Owner&) = delete;

   private:
    Arena& arena_;
    int before_;
  };

  bool in_step() const { return current_ != nullptr; }

  // While it may not, as in Device::capture, a request that no plan foresaw throws Error (kInternal).
  void may_grow(bool allowed) { may_grow_ = allowed; }

  // For tests: from now on a block outside a step is filled with 0xFF (NaN in every float type) and stands
  // between guard bytes, which its release checks.
  void guard_blocks() { guarding_ = true; }
  int64_t damaged_blocks() const { return damaged_blocks_; }

 private:
  struct Request {
    size_t bytes;
    int64_t birth, death;  // in ticks of allocate/release; death -1: outlives the step, served from the heap
    size_t offset;
  };
  struct KeyState {
    std::vector<Request> planned;
    Plan plan;
    bool valid = false, followed = false;  // followed: by a whole step, to its end
  };
  // A slab that a step left with live blocks in it: freed with the last of them.
  struct RetiredSlab {
    std::byte* data;
    size_t bytes;
    int64_t live;
  };
  Ticket allocate_guarded(size_t requested);
  void release_guarded(const Ticket& ticket, size_t requested);
  bool release_in_slab(std::byte* data);
  void leave_plan(const std::string& why);
  void make_plan(KeyState& state);
  std::byte* obtain(size_t bytes, int owner);
  void give_up(std::byte* data, size_t bytes, int owner);
  std::byte* obtain_on_accelerator(size_t bytes);
  bool whole_guard(const std::byte* begin, const std::byte* end) const;
  std::byte* from_cache(size_t bytes);
  void free_cache();

  Memory memory_ = Memory::kReal;
  Accelerator* accelerator_ = nullptr;
  static constexpr int kOther = 0, kStep = 1;  // in owners_
  std::vector<Owned> owners_ = {{"other"}, {"step"}};
  int owner_ = kOther;
  std::map<std::string, KeyState> keys_;
  KeyState* current_ = nullptr;
  std::string current_key_;
  bool recording_ = false, replaying_ = false;  // neither: a step that left its plan
  int64_t clock_ = 0, next_request_ = 0;
  uint64_t step_ = 0;
  std::vector<Request> log_;
  std::multimap<size_t, std::byte*> cache_;
  std::byte* slab_ = nullptr;
  size_t slab_bytes_ = 0;
  int64_t slab_live_ = 0;  // blocks in it; 0 between steps
  std::vector<RetiredSlab> retired_;
  size_t persistent_bytes_ = 0, step_bytes_ = 0;
  bool may_grow_ = true;
  bool guarding_ = false;
  int64_t damaged_blocks_ = 0;
};

}  // namespace rookery
