// fiber.h: stackful fibers: the context switch and the pool of guarded stacks. One fiber is one thread of a
// CUDA block (machine.h); all fibers of a launch run on the operating system's thread that launched.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rookery::emulator {

// A suspended flow of control: a fiber, or the host that launched it.
struct Context {
  void* stack_pointer = nullptr;
  const void* stack_bottom = nullptr;  // what AddressSanitizer wants to know of the stack that it is told of
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;
};

// Saves the running context in `from` and resumes `to`. `leaving_for_ever`: nothing will resume `from`.
void switch_context(Context& from, Context& to, bool leaving_for_ever = false);

// The first call of a fiber. `host` is the context that was switched from, if that was not a fiber.
void enter_fiber(Context* host);

// Stacks with a guard page below each, in one mapping that grows on demand.
class StackPool {
 public:
  StackPool() = default;
  ~StackPool();
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;

  void reserve(size_t count);
  // A context that starts in `entry` on stack i. `entry` must not return.
  Context start(size_t i, void (*entry)());
  bool contains(uintptr_t address) const { return address - begin_ < bytes_; }

 private:
  uintptr_t begin_ = 0;
  size_t bytes_ = 0;
  size_t count_ = 0;
};

}  // namespace rookery::emulator
