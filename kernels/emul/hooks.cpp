// hooks.cpp: what the compiler calls at each load and store of a kernel built with -fsanitize=thread. The
// runtime of ThreadSanitizer is not linked: these functions take its place and ask the race detector.
#include <cstddef>
#include <cstdint>

#include "kernels/emul/machine.h"

using rookery::emulator::Access;
using rookery::emulator::Machine;

namespace {

[[gnu::always_inline]] inline void note(Access access, const void* address, size_t bytes, void* where) {
  if (Machine* machine = Machine::running())
    machine->note(access, reinterpret_cast<uintptr_t>(address), bytes, reinterpret_cast<uintptr_t>(where));
}

}  // namespace

#define ROOKERY_HOOK(access, name, bytes)                              \
  void __tsan_##name(const void* address) {                            \
    note(Access::access, address, bytes, __builtin_return_address(0)); \
  }
#define ROOKERY_HOOKS(bytes)                        \
  ROOKERY_HOOK(kRead, read##bytes, bytes)           \
  ROOKERY_HOOK(kWrite, write##bytes, bytes)         \
  ROOKERY_HOOK(kRead, unaligned_read##bytes, bytes) \
  ROOKERY_HOOK(kWrite, unaligned_write##bytes, bytes)

extern "C" {
ROOKERY_HOOKS(1)
ROOKERY_HOOKS(2)
ROOKERY_HOOKS(4)
ROOKERY_HOOKS(8)
ROOKERY_HOOKS(16)
void __tsan_read_range(const void* address, size_t bytes) {
  note(Access::kRead, address, bytes, __builtin_return_address(0));
}
void __tsan_write_range(const void* address, size_t bytes) {
  note(Access::kWrite, address, bytes, __builtin_return_address(0));
}
void __tsan_vptr_read(const void* address) { __tsan_read8(address); }
void __tsan_vptr_update(const void* address, const void*) { __tsan_write8(address); }
// Host code in the same file: the guard of a static variable's initialisation, counts of shared pointers.
char __tsan_atomic8_load(const volatile char* address, int) {
  return __atomic_load_n(address, __ATOMIC_ACQUIRE);
}
int __tsan_atomic32_fetch_add(volatile int* address, int value, int) {
  return __atomic_fetch_add(address, value, __ATOMIC_ACQ_REL);
}
void __tsan_init() {}
void __tsan_func_entry(const void*) {}
void __tsan_func_exit() {}
}
