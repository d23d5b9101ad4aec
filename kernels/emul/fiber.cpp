// fiber.cpp: the switch, in assembly for x86-64 and AArch64 (a dozen instructions: 20 times faster than
// swapcontext, which changes the signal mask by two system calls), by ucontext elsewhere.
#include "kernels/emul/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "kernels/base/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>

#include <memory>
#define ROOKERY_UCONTEXT
#endif

// Saves what the ABI wants preserved on the stack, stores the stack pointer at *save, loads `load`, restores.
#if !defined(ROOKERY_UCONTEXT)
extern "C" void rookery_switch_stack(void** save, void* load);
asm(R"(
.text
.p2align 4
.type rookery_switch_stack, STT_FUNC
rookery_switch_stack:
)"
#if defined(__x86_64__)
    R"(
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)"
#else
    R"(
.macro each_pair move
  \move x19, x20, [sp, #16]
  \move x21, x22, [sp, #32]
  \move x23, x24, [sp, #48]
  \move x25, x26, [sp, #64]
  \move x27, x28, [sp, #80]
  \move d8, d9, [sp, #96]
  \move d10, d11, [sp, #112]
  \move d12, d13, [sp, #128]
  \move d14, d15, [sp, #144]
.endm
  stp x29, x30, [sp, #-160]!
  each_pair stp
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  each_pair ldp
  ldp x29, x30, [sp], #160
  ret
)"
#endif
    R"(
.size rookery_switch_stack, . - rookery_switch_stack
)");
#endif

namespace rookery::emulator {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 << 10;  // red zones around each local variable
#else
constexpr size_t kStackBytes = 64 << 10;  // 255 registers are 1 KB
#endif

size_t page_bytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

}  // namespace

#if defined(ROOKERY_UCONTEXT)

void switch_context(Context& from, Context& to, bool) {
  ucontext_t here;
  from.stack_pointer = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to.stack_pointer));
}

namespace {
void* first_frame(char* bottom, void (*entry)()) {
  // The ucontext_t lies at the top of the fiber's own stack: it is read once, before the stack is used.
  auto* context = reinterpret_cast<ucontext_t*>(bottom + kStackBytes - sizeof(ucontext_t) - 64);
  getcontext(context);
  context->uc_stack = {bottom, 0, kStackBytes - sizeof(ucontext_t) - 128};
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}
}  // namespace

#else

void switch_context(Context& from, Context& to, [[maybe_unused]] bool leaving_for_ever) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(leaving_for_ever ? nullptr : &from.fake_stack, to.stack_bottom,
                                 to.stack_bytes);
  rookery_switch_stack(&from.stack_pointer, to.stack_pointer);
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#else
  rookery_switch_stack(&from.stack_pointer, to.stack_pointer);
#endif
}

namespace {
void* first_frame(char* bottom, void (*entry)()) {
  void** top = reinterpret_cast<void**>(bottom + kStackBytes);
#if defined(__x86_64__)
  // As after a call: rsp + 8 is a multiple of 16 at the entry, and the return address is null.
  void** frame = top - 10;
  std::memset(frame, 0, 10 * sizeof(void*));
  frame[6] = reinterpret_cast<void*>(entry);
#else
  void** frame = top - 20;
  std::memset(frame, 0, 20 * sizeof(void*));
  frame[1] = reinterpret_cast<void*>(entry);  // x30
#endif
  return frame;
}
}  // namespace

#endif

void enter_fiber([[maybe_unused]] Context* host) {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (host != nullptr) host->stack_bottom = bottom, host->stack_bytes = bytes;
#endif
}

StackPool::~StackPool() {
  if (begin_ != 0) munmap(reinterpret_cast<void*>(begin_), bytes_);
}

void StackPool::reserve(size_t count) {
  if (count <= count_) return;
  if (begin_ != 0) munmap(reinterpret_cast<void*>(begin_), bytes_);
  begin_ = 0;
  const size_t stride = kStackBytes + page_bytes();
  void* memory = mmap(nullptr, count * stride, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  RK_CHECK(memory != MAP_FAILED, "[emul] no memory for the stacks of ", count,
           " threads: ", std::strerror(errno));
  begin_ = reinterpret_cast<uintptr_t>(memory);
  bytes_ = count * stride;
  count_ = count;
  for (size_t i = 0; i < count; ++i)
    mprotect(reinterpret_cast<void*>(begin_ + i * stride), page_bytes(), PROT_NONE);
}

Context StackPool::start(size_t i, void (*entry)()) {
  char* bottom = reinterpret_cast<char*>(begin_ + i * (kStackBytes + page_bytes()) + page_bytes());
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(bottom, kStackBytes);  // frames of a fiber that was abandoned
#endif
  return {first_frame(bottom, entry), bottom, kStackBytes, nullptr};
}

}  // namespace rookery::emulator
