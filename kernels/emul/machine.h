// machine.h: one emulated block at a time: its threads as fibers, who runs next, and the block's shared
// memory. What kernels call: ops.h.
#pragma once

#include <array>
#include <bitset>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/str.h"
#include "kernels/emul/async.h"
#include "kernels/emul/banks.h"
#include "kernels/emul/fiber.h"
#include "kernels/emul/mutation.h"
#include "kernels/emul/ops.h"
#include "kernels/emul/options.h"
#include "kernels/emul/race.h"
#include "kernels/emul/words.h"

namespace rookery::emulator {

constexpr size_t kMaxSharedBytes = 227 << 10;
constexpr size_t kRedZoneBytes = 128;  // after each array of shared memory

inline bool same_site(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() && std::string_view(a.file_name()) == b.file_name();
}
std::string to_string(const Site& site);

enum class Access : uint8_t { kRead, kWrite };

enum class WarpOpKind : uint8_t {
  kSync,
  kShuffle,
  kBallot,
  kReduce,
  kLoadMatrix,
  kStoreMatrix,
  kMultiply,
  kNamedBarrier,
};

struct Thread {
  Context context;
  uint3 index;
  int id, warp, lane;
  int position;  // in the order of the run
  bool done;
  std::string_view waits_at;  // the kind of rendezvous, empty while the thread can run
  Site site;                  // of that rendezvous
};

// A warp operation that some lanes of its mask have reached.
struct WarpOp {
  WarpOpKind kind;
  uint32_t mask, arrived;
  Site site;
  std::array<void*, kWarpSize> operands;  // on the stacks of the lanes
};

class Machine {
 public:
  static Machine& current() { return *running_; }
  static Machine* running() { return running_; }  // null outside launches
  static Machine& of_thread();

  // Runs body(arguments) once for each thread of the grid. Throws what a thread throws, and Error (kInternal)
  // on a fault of the kernel.
  static void run(const LaunchShape& shape, const void* kernel, void (*body)(void*), void* arguments);

  // --- called by fibers ---
  Thread& self() { return *self_; }
  Thread& thread(int i) { return thread_[static_cast<size_t>(i)]; }
  int threads() const { return threads_; }
  const Options& options() const { return options_; }
  RaceDetector& races() { return races_; }
  Async& async() { return async_; }
  uint64_t random();
  // A load or store of the running fiber: faults if it races or goes where it must not; `where` is the return
  // address in the kernel.
  void note(Access access, uintptr_t address, size_t bytes, uintptr_t where);
  bool is_shared(const void* address, size_t bytes) const {
    const uintptr_t offset = reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(shared_);
    return offset < shared_bytes_ && bytes <= shared_bytes_ - offset;
  }
  // True if a test wants to see the kernel without this barrier (mutation.h).
  bool removed(std::string_view what, const Site& site) const { return is_removed(kernel_, what, site); }
  // Ends the launch with Error. The fiber never runs again, so nothing on its stack may need a destructor.
  template <class... Args>
  [[noreturn]] void fault(const Args&... args) {
    end_in_fault(str(args...));
  }
  // Lets others run until make_ready(); `what` and `site` tell a deadlock report.
  void wait(std::string_view what, Site site);
  void make_ready(Thread& thread);

  int block_barrier(BarrierKind kind, int predicate, Site site);
  // All lanes of `mask` come here; the last evaluates evaluate(operands by lane, mask) for all of them.
  void warp_op(WarpOpKind kind, uint32_t mask, Site site, void* operand,
               void (*evaluate)(const std::array<void*, kWarpSize>& operands, uint32_t mask));
  char* shared() const { return shared_; }
  size_t shared_bytes() const { return shared_bytes_; }
  // The arrays of the kernel: `count` of them at these offsets. The zone behind each must stay as it is.
  void declare_arrays(const size_t* offsets, const size_t* bytes, size_t count, Site site);

 private:
  Machine();
  ~Machine();
  static void fiber_main();
  void prepare(const LaunchShape& shape);
  void run_block(const LaunchShape& shape, const uint3& block);
  void order_threads();
  Thread* next_ready();
  Thread& next_or_deadlock();
  void resume(Thread& thread);
  [[noreturn]] void leave_for_host();
  [[noreturn]] void end_in_fault(std::string message);
  [[noreturn]] void finish_thread();
  void release_barrier();
  std::string deadlock_report() const;
  void check_zones() const;

  static constinit thread_local Machine* running_;

  Options options_;
  uint64_t random_state_ = 0;
  const void* kernel_ = nullptr;
  void (*body_)(void*) = nullptr;
  void* arguments_ = nullptr;

  RaceDetector races_;
  BankCounter* banks_ = nullptr;  // null: nobody counts
  Async async_{*this};
  StackPool stacks_;
  Context host_;
  bool host_is_known_ = false;
  std::string fault_;
  std::exception_ptr thrown_;

  // The block.
  int threads_ = 0;
  int finished_ = 0;
  std::array<Thread, kMaxThreads> thread_;
  std::array<int, kMaxThreads> thread_at_;        // by position
  std::array<uint64_t, kMaxThreads / 64> ready_;  // by position
  int cursor_ = 0;
  Thread* self_ = nullptr;
  std::array<std::vector<WarpOp>, kMaxThreads / kWarpSize> warp_ops_;

  // __syncthreads
  int arrived_ = 0;
  int predicates_ = 0;
  int folded_ = 0;  // predicates of the barrier that was passed last
  BarrierKind barrier_kind_ = BarrierKind::kPlain;
  Site barrier_site_;

  // Shared memory: ends at the guard page behind the mapping.
  char* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  char* shared_ = nullptr;
  size_t shared_bytes_ = 0;
  struct Zone {
    size_t begin, end;
  };
  std::vector<Zone> zones_;
  Site arrays_site_;
};

}  // namespace rookery::emulator
