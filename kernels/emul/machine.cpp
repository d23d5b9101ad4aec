// machine.cpp: the scheduler of one emulated block, its barrier and its shared memory.
#include "kernels/emul/machine.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>

#include "kernels/base/error.h"
#include "kernels/emul/report.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)
#define ASAN_UNPOISON_MEMORY_REGION(address, size)
#endif

namespace rookery::emulator {

constinit thread_local SpecialRegisters special_registers{};
constinit thread_local Machine* Machine::running_ = nullptr;

namespace {

constinit thread_local const Options* options_of_thread = nullptr;

// A signalling NaN as float and as bf16: what shared memory holds before it is written.
constexpr uint32_t kPoison = 0x7fa07fa0;
constexpr unsigned char kZonePattern = 0xa5;

void check_limits(const LaunchShape& shape) {
  const dim3& grid = shape.grid;
  const dim3& block = shape.block;
  RK_CHECK(grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && grid.x <= 0x7fffffffu && grid.y <= 65535 &&
               grid.z <= 65535,
           "[emul] grid of ", grid.x, " x ", grid.y, " x ", grid.z,
           " blocks: a device takes 1 to 2147483647 x 65535 x 65535");
  RK_CHECK(block.x >= 1 && block.y >= 1 && block.z >= 1 && block.z <= 64 &&
               uint64_t{block.x} * block.y * block.z <= kMaxThreads,
           "[emul] block of ", block.x, " x ", block.y, " x ", block.z, " threads: a device takes 1 to ",
           kMaxThreads, " in all and at most 64 in z");
}

}  // namespace

ScopedOptions::ScopedOptions(const Options& options) : options_(options), outer_(options_of_thread) {
  options_of_thread = &options_;
}
ScopedOptions::~ScopedOptions() { options_of_thread = outer_; }
const Options& current_options() {
  static const Options kDefaults;
  return options_of_thread != nullptr ? *options_of_thread : kDefaults;
}

std::string to_string(Order order) {
  switch (order) {
    case Order::kAscending:
      return "ascending";
    case Order::kDescending:
      return "descending";
    case Order::kRandom:
      return "random";
    case Order::kLastLanesFirst:
      return "last lanes first";
    case Order::kOneWarpAhead:
      return "one warp ahead";
  }
  return "?";
}
std::string to_string(CopyTime time) {
  switch (time) {
    case CopyTime::kLate:
      return "late";
    case CopyTime::kEarly:
      return "early";
    case CopyTime::kRandom:
      return "at random";
  }
  return "?";
}
std::string to_string(const Options& options) {
  return str("order ", options.order, ", copies ", options.copies, ", seed ", options.seed,
             options.shuffle_blocks ? ", blocks shuffled" : "");
}
std::string to_string(const Site& site) { return str(site.file_name(), ":", site.line()); }

Machine::Machine() {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  // Twice the limit, for the red zones; a guard page at each end.
  mapping_bytes_ = (2 * kMaxSharedBytes + page - 1) / page * page + 2 * page;
  void* memory = mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  RK_CHECK(memory != MAP_FAILED, "[emul] no memory for a block's shared memory: ", std::strerror(errno));
  mapping_ = static_cast<char*>(memory);
  mprotect(mapping_, page, PROT_NONE);
  mprotect(mapping_ + mapping_bytes_ - page, page, PROT_NONE);
}

Machine::~Machine() { munmap(mapping_, mapping_bytes_); }

Machine& Machine::of_thread() {
  thread_local std::unique_ptr<Machine, void (*)(Machine*)> machine(new Machine,
                                                                    [](Machine* m) { delete m; });
  return *machine;
}

void Machine::run(const LaunchShape& shape, const void* kernel, void (*body)(void*), void* arguments) {
  check_limits(shape);
  RK_CHECK(running_ == nullptr, "[emul] a kernel cannot launch a kernel");
  Machine* machine = running_ = &of_thread();
  struct Stop {
    ~Stop() { running_ = nullptr; }
  } stop;
  machine->kernel_ = kernel;
  machine->body_ = body;
  machine->arguments_ = arguments;
  machine->prepare(shape);
  note_launch(kernel);
  machine->races_.begin_launch();
  const uint64_t blocks = uint64_t{shape.grid.x} * shape.grid.y * shape.grid.z;
  std::vector<uint32_t> order;
  if (machine->options_.shuffle_blocks) {
    RK_CHECK(blocks <= UINT32_MAX, "[emul] too many blocks to shuffle: ", blocks);
    order.resize(blocks);
    for (uint32_t i = 0; i < blocks; ++i) order[i] = i;
    for (uint32_t i = static_cast<uint32_t>(blocks); i > 1; --i)
      std::swap(order[i - 1], order[machine->random() % i]);
  }
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t b = order.empty() ? i : order[i];
    machine->run_block(shape, {static_cast<unsigned>(b % shape.grid.x),
                               static_cast<unsigned>(b / shape.grid.x % shape.grid.y),
                               static_cast<unsigned>(b / shape.grid.x / shape.grid.y)});
  }
}

void Machine::prepare(const LaunchShape& shape) {
  options_ = current_options();
  banks_ = bank_counter();
#ifdef ROOKERY_NO_HOOKS  // what the kernels touch is not known
  options_.races = false;
#endif
  random_state_ = options_.seed * 0x9E3779B97F4A7C15ull + 1;
  threads_ = static_cast<int>(shape.block.x * shape.block.y * shape.block.z);
  stacks_.reserve(static_cast<size_t>(threads_));
  special_registers.block_size = shape.block;
  special_registers.grid_size = shape.grid;
  ASAN_UNPOISON_MEMORY_REGION(mapping_, mapping_bytes_);
  // The array ends at the guard page, except for what its alignment leaves.
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  shared_bytes_ = shape.shared_bytes;
  RK_CHECK(shared_bytes_ <= mapping_bytes_ - 2 * page, "[emul] ", shared_bytes_,
           " bytes of shared memory: a block has ", kMaxSharedBytes);
  shared_ = mapping_ + mapping_bytes_ - page - (shared_bytes_ + 127) / 128 * 128;
}

void Machine::run_block(const LaunchShape& shape, const uint3& block) {
  special_registers.block = block;
  fault_.clear();
  thrown_ = nullptr;
  finished_ = 0;
  arrived_ = 0;
  zones_.clear();
  races_.begin_block(block, threads_, shared_, shared_bytes_);
  async_.begin_block(threads_);
  if (banks_ != nullptr) banks_->begin_block(kernel_, reinterpret_cast<uintptr_t>(shared_), threads_);
  for (auto& ops : warp_ops_) ops.clear();
  ASAN_UNPOISON_MEMORY_REGION(shared_, shared_bytes_);
  for (size_t i = 0; i + sizeof kPoison <= shared_bytes_; i += sizeof kPoison)
    std::memcpy(shared_ + i, &kPoison, sizeof kPoison);
  for (int i = 0; i < threads_; ++i) {
    Thread& thread = thread_[static_cast<size_t>(i)];
    thread.id = i;
    thread.warp = i / kWarpSize;
    thread.lane = i % kWarpSize;
    const unsigned u = static_cast<unsigned>(i);
    thread.index = {u % shape.block.x, u / shape.block.x % shape.block.y, u / shape.block.x / shape.block.y};
    thread.done = false;
    thread.waits_at = {};
    thread.context = stacks_.start(static_cast<size_t>(i), fiber_main);
  }
  order_threads();
  host_is_known_ = false;
  self_ = next_ready();
  special_registers.thread = self_->index;
  switch_context(host_, self_->context);
  if (thrown_) std::rethrow_exception(thrown_);
  if (fault_.empty()) check_zones();
  if (banks_ != nullptr) banks_->end_block();
  RK_CHECK(fault_.empty(), "[emul] block (", block.x, ", ", block.y, ", ", block.z, "): ", fault_, " [",
           options_, "]");
}

void Machine::order_threads() {
  const size_t n = static_cast<size_t>(threads_);
  for (int i = 0; i < threads_; ++i) thread_at_[static_cast<size_t>(i)] = i;
  const auto begin = thread_at_.begin(), end = begin + threads_;
  switch (options_.order) {
    case Order::kAscending:
      break;
    case Order::kDescending:
      std::reverse(begin, end);
      break;
    case Order::kRandom:
      for (size_t i = n; i > 1; --i) std::swap(thread_at_[i - 1], thread_at_[random() % i]);
      break;
    case Order::kLastLanesFirst:
      std::stable_sort(begin, end, [](int a, int b) { return a % kWarpSize > b % kWarpSize; });
      break;
    case Order::kOneWarpAhead: {
      const int warps = (threads_ + kWarpSize - 1) / kWarpSize;
      std::rotate(begin, begin + kWarpSize * static_cast<int>(random() % static_cast<uint64_t>(warps)), end);
      break;
    }
  }
  ready_.fill(0);
  for (size_t p = 0; p < n; ++p) {
    thread_[static_cast<size_t>(thread_at_[p])].position = static_cast<int>(p);
    ready_[p / 64] |= uint64_t{1} << (p % 64);
  }
  cursor_ = -1;
}

uint64_t Machine::random() {  // xorshift64*
  random_state_ ^= random_state_ >> 12;
  random_state_ ^= random_state_ << 25;
  random_state_ ^= random_state_ >> 27;
  return random_state_ * 0x2545F4914F6CDD1Dull >> 16;
}

// The first thread that can run, in cyclic order from the one that ran last; from a random place; or from the
// warp that is to be ahead.
Thread* Machine::next_ready() {
  int start = cursor_ + 1;
  if (options_.order == Order::kRandom) start = static_cast<int>(random() % static_cast<uint64_t>(threads_));
  if (options_.order == Order::kOneWarpAhead || start >= threads_) start = 0;
  const size_t words = (static_cast<size_t>(threads_) + 63) / 64;
  size_t word = static_cast<size_t>(start) / 64;
  uint64_t bits = ready_[word] & (~uint64_t{0} << (start % 64));
  for (size_t i = 0; i <= words; ++i) {
    if (bits != 0) {
      cursor_ = static_cast<int>(word) * 64 + std::countr_zero(bits);
      return &thread_[static_cast<size_t>(thread_at_[static_cast<size_t>(cursor_)])];
    }
    word = word + 1 == words ? 0 : word + 1;
    bits = ready_[word];
  }
  return nullptr;
}

Thread& Machine::next_or_deadlock() {
  Thread* next = next_ready();
  while (next == nullptr && async_.finish_something()) next = next_ready();
  if (next == nullptr) end_in_fault(deadlock_report());
  return *next;
}

void Machine::resume(Thread& thread) {
  if (&thread == self_) return;
  Thread& from = *self_;
  self_ = &thread;
  special_registers.thread = thread.index;
  switch_context(from.context, thread.context, from.done);
}

void Machine::wait(std::string_view what, Site site) {
  self_->waits_at = what;
  self_->site = site;
  const size_t p = static_cast<size_t>(self_->position);
  ready_[p / 64] &= ~(uint64_t{1} << (p % 64));
  async_.at_random_step();
  resume(next_or_deadlock());
}

void Machine::make_ready(Thread& thread) {
  thread.waits_at = {};
  const size_t p = static_cast<size_t>(thread.position);
  ready_[p / 64] |= uint64_t{1} << (p % 64);
}

void Machine::fiber_main() {
  Machine& machine = current();
  enter_fiber(machine.host_is_known_ ? nullptr : &machine.host_);
  machine.host_is_known_ = true;
  try {
    machine.body_(machine.arguments_);
  } catch (...) {
    machine.thrown_ = std::current_exception();
  }
  if (machine.thrown_) machine.leave_for_host();
  machine.finish_thread();
}

void Machine::finish_thread() {
  async_.thread_ends();
  if (arrived_ > 0 && !options_.barrier_after_exit)
    fault("thread ", self_->id, " has returned while others wait at the block barrier of ", barrier_site_);
  self_->done = true;
  ++finished_;
  const size_t p = static_cast<size_t>(self_->position);
  ready_[p / 64] &= ~(uint64_t{1} << (p % 64));
  if (finished_ == threads_) leave_for_host();
  if (arrived_ > 0 && arrived_ + finished_ == threads_) release_barrier();
  resume(next_or_deadlock());
  __builtin_unreachable();
}

void Machine::leave_for_host() {
  switch_context(self_->context, host_, true);
  __builtin_unreachable();
}

void Machine::end_in_fault(std::string message) {
  fault_ = std::move(message);
  leave_for_host();
}

int Machine::block_barrier(BarrierKind kind, int predicate, Site site) {
  if (removed("__syncthreads", site)) return predicate;
  if (finished_ > 0 && !options_.barrier_after_exit)
    fault("thread ", self_->id, " is at the block barrier of ", site, " after ", finished_,
          " threads have returned");
  if (arrived_ == 0) {
    barrier_kind_ = kind;
    barrier_site_ = site;
    predicates_ = 0;
  } else if (kind != barrier_kind_ || !same_site(site, barrier_site_)) {
    fault("divergent block barriers: thread ", self_->id, " is at ", site, ", ", arrived_, " others at ",
          barrier_site_);
  }
  predicates_ += predicate != 0;
  if (++arrived_ + finished_ == threads_) {
    release_barrier();
  } else {
    wait("block barrier", site);
  }
  switch (kind) {
    case BarrierKind::kAnd:
      return folded_ == threads_ - finished_;
    case BarrierKind::kOr:
      return folded_ > 0;
    default:
      return folded_;
  }
}

void Machine::release_barrier() {
  races_.block_barrier();
  arrived_ = 0;
  folded_ = predicates_;
  for (int i = 0; i < threads_; ++i) {
    Thread& thread = thread_[static_cast<size_t>(i)];
    if (!thread.done) make_ready(thread);
  }
}

void Machine::note(Access access, uintptr_t address, size_t bytes, uintptr_t where) {
  if (banks_ != nullptr && is_shared(reinterpret_cast<void*>(address), bytes))
    banks_->note(self_->id, address, bytes, where);
  if (!options_.races) return;
  const char* verb = access == Access::kRead ? " reads " : " writes ";
  if (address - reinterpret_cast<uintptr_t>(mapping_) < mapping_bytes_) {
    if (!is_shared(reinterpret_cast<void*>(address), bytes))
      fault("thread ", self_->id, verb, bytes, " bytes outside shared memory (byte ",
            static_cast<int64_t>(address - reinterpret_cast<uintptr_t>(shared_)), " of ", shared_bytes_,
            ") at ", source_line(where));
    if (bytes == 1 && access == Access::kWrite)
      fault("thread ", self_->id, " writes a single byte of shared memory at ", source_line(where),
            ": races are looked for in units of two bytes, so keep wider values there");
  } else {
    const uintptr_t registers = reinterpret_cast<uintptr_t>(&special_registers);
    if (stacks_.contains(address) || address - registers < sizeof special_registers) return;
    if (address < 4096) fault("thread ", self_->id, verb, "through a null pointer at ", source_line(where));
    if (bytes == 1 && !races_.forbidden(address)) return;  // two of them share what the detector knows
  }
  std::string wrong = access == Access::kRead ? races_.read(self_->id, address, bytes, where)
                                              : races_.write(self_->id, address, bytes, where);
  if (!wrong.empty()) end_in_fault(std::move(wrong));
}

std::string Machine::deadlock_report() const {
  // Threads by what they wait for.
  std::map<std::string, std::vector<int>> groups;
  for (int i = 0; i < threads_; ++i) {
    const Thread& thread = thread_[static_cast<size_t>(i)];
    groups[thread.done ? std::string("returned") : str(thread.waits_at, " of ", thread.site)].push_back(i);
  }
  std::string report = "deadlock:";
  for (const auto& [what, threads] : groups) report += str("\n  ", what, ": threads ", ranges(threads));
  for (size_t w = 0; w < warp_ops_.size(); ++w) {
    for (const WarpOp& op : warp_ops_[w]) {
      std::vector<int> missing;
      for (int lane = 0; lane < kWarpSize; ++lane)
        if ((op.mask & ~op.arrived) >> lane & 1) missing.push_back(lane);
      report += str("\n  warp ", w, " at ", op.site, ": lanes ", ranges(missing), " have not come");
    }
  }
  return report;
}

void Machine::declare_arrays(const size_t* offsets, const size_t* bytes, size_t count, Site site) {
  const size_t last = count == 0 ? 0 : offsets[count - 1] + bytes[count - 1] + kRedZoneBytes;
  if (last > shared_bytes_)
    fault("the arrays of ", site, " take ", last,
          " bytes of shared memory, zones included; the launch asked for ", shared_bytes_);
  size_t payload = 0;
  for (size_t i = 0; i < count; ++i) payload += bytes[i];
  if (payload > kMaxSharedBytes)
    fault("the arrays of ", site, " take ", payload, " bytes of shared memory; a block has ",
          kMaxSharedBytes);
  if (!zones_.empty()) {
    if (!same_site(site, arrays_site_)) fault("arrays are carved at ", arrays_site_, " and again at ", site);
    return;
  }
  arrays_site_ = site;
  for (size_t i = 0; i < count; ++i) {
    const size_t end = offsets[i] + bytes[i];
    const size_t next = i + 1 < count ? offsets[i + 1] : shared_bytes_;
    zones_.push_back({end, next});
    std::memset(shared_ + end, kZonePattern, next - end);
    races_.set_use(shared_ + end, next - end, RaceDetector::Use::kZone);
    ASAN_POISON_MEMORY_REGION(shared_ + end, next - end);
  }
}

void Machine::check_zones() const {
  ASAN_UNPOISON_MEMORY_REGION(shared_, shared_bytes_);
  for (size_t i = 0; i < zones_.size(); ++i) {
    for (size_t at = zones_[i].begin; at < zones_[i].end; ++at) {
      RK_CHECK(static_cast<unsigned char>(shared_[at]) == kZonePattern, "[emul] a thread wrote ",
               at - zones_[i].begin, " bytes behind the end of array ", i, " of those carved at ",
               arrays_site_);
    }
  }
}

void forbid_memory(const std::byte* begin, size_t bytes, bool forbidden) {
  Machine::of_thread().races().set_forbidden(reinterpret_cast<uintptr_t>(begin), bytes, forbidden);
}

void run_grid(const LaunchShape& shape, const void* kernel, void (*body)(void*), void* arguments) {
  Machine::run(shape, kernel, body, arguments);
}

char* shared_memory(Site site) {
  Machine& machine = Machine::current();
  if (machine.shared_bytes() > kMaxSharedBytes)
    machine.fault("the shared memory of ", site, " has ", machine.shared_bytes(), " bytes; a block has ",
                  kMaxSharedBytes);
  return machine.shared();
}

char* carve_arrays(const size_t* offsets, const size_t* bytes, size_t count, Site site) {
  Machine& machine = Machine::current();
  machine.declare_arrays(offsets, bytes, count, site);
  return machine.shared();
}

int block_barrier(BarrierKind kind, int predicate, Site site) {
  return Machine::current().block_barrier(kind, predicate, site);
}

}  // namespace rookery::emulator
