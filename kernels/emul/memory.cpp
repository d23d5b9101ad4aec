// memory.cpp: loads, stores and atomics of the wrappers, with the checks that the host's hardware does not
// make.
#include <cstring>

#include "kernels/emul/machine.h"
#include "kernels/emul/ops.h"

namespace rookery::emulator {
namespace {

void check_aligned(const void* address, const char* what, Site site) {
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0)
    Machine::current().fault("the address of the ", what, " of 16 bytes of ", site,
                             " is not a multiple of 16 bytes");
}

uintptr_t integer(const void* address) { return reinterpret_cast<uintptr_t>(address); }

// Atomics do not race with each other; with plain stores they do, as a read does.
template <class T>
T add(T* to, T value, void* where) {
  Machine::current().note(Access::kRead, integer(to), sizeof(T), integer(where));
  const T old = *to;
  *to = old + value;
  return old;
}

}  // namespace

void load16(void* to, const void* from, Site site) {
  check_aligned(from, "load", site);
  Machine::current().note(Access::kRead, integer(from), 16, integer(__builtin_return_address(0)));
  std::memcpy(to, from, 16);
}

void store16(void* to, const void* from, Site site) {
  check_aligned(to, "store", site);
  Machine::current().note(Access::kWrite, integer(to), 16, integer(__builtin_return_address(0)));
  std::memcpy(to, from, 16);
}

float atomic_add(float* to, float value) { return add(to, value, __builtin_return_address(0)); }
int atomic_add(int* to, int value) { return add(to, value, __builtin_return_address(0)); }
unsigned atomic_add(unsigned* to, unsigned value) { return add(to, value, __builtin_return_address(0)); }

}  // namespace rookery::emulator
