// arena.cpp: record, pack, replay (kernels/tensor/arena.h).
#include "kernels/tensor/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/tensor/accelerator.h"
#include "kernels/tensor/guard.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace rookery {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kGuard = 1024;
constexpr unsigned char kGuardByte = 0xA5;
std::string mebibytes(size_t bytes) { return str((bytes + (1 << 20) - 1) >> 20, " MiB"); }
size_t rounded(size_t bytes) { return (std::max<size_t>(bytes, 1) + kAlign - 1) / kAlign * kAlign; }

[[noreturn]] void refuse(size_t bytes) {
  fail(ExitCode::kUnavailable, "MEM-01", "out of memory: asked for ", bytes,
       " bytes. Use a smaller micro_batch_size, seq_len or model");
}

std::byte* heap(size_t bytes) {
  const bool large = bytes >= 2 * kHugePage;
  const size_t align = large ? kHugePage : kAlign;
  auto* data = static_cast<std::byte*>(std::aligned_alloc(align, (bytes + align - 1) / align * align));
  if (data == nullptr) refuse(bytes);
  if (large) madvise(data, bytes, MADV_HUGEPAGE);  // fewer TLB misses; a refusal costs nothing
  return data;
}

constinit thread_local const GuardWatch::Watch* guard_watch = nullptr;

// Guard bytes: with AddressSanitizer an access to them ends the program at once.
void forbid(const std::byte* begin, const std::byte* end, bool forbidden, [[maybe_unused]] bool on_host) {
  const size_t bytes = static_cast<size_t>(end - begin);
#if defined(__SANITIZE_ADDRESS__)
  if (on_host && forbidden) __asan_poison_memory_region(begin, bytes);
  if (on_host && !forbidden) __asan_unpoison_memory_region(begin, bytes);
#endif
  if (guard_watch != nullptr) (*guard_watch)(begin, bytes, forbidden);
}

}  // namespace

GuardWatch::GuardWatch(Watch watch) : watch_(std::move(watch)) { guard_watch = &watch_; }
GuardWatch::~GuardWatch() { guard_watch = nullptr; }

std::byte* Arena::obtain(size_t bytes, int owner) {
  RK_CHECK(may_grow_, "[capture] ", bytes, " bytes are asked for that no plan of the arena foresaw");
  std::byte* data = nullptr;
  if (accelerator_ != nullptr) {
    data = obtain_on_accelerator(bytes);
  } else if (memory_ == Memory::kReal) {
    data = heap(bytes);
  } else {
    void* addresses =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (addresses == MAP_FAILED) refuse(bytes);
    data = static_cast<std::byte*>(addresses);
  }
  Owned& o = owners_[static_cast<size_t>(owner)];
  o.peak = std::max(o.peak, o.bytes += bytes);
  return data;
}

std::byte* Arena::obtain_on_accelerator(size_t bytes) {
  if (std::byte* data = accelerator_->allocate(bytes)) return data;
  free_cache();
  if (std::byte* data = accelerator_->allocate(bytes)) return data;
  // The slab of other steps, which find another one when they come again.
  if (slab_ != nullptr && slab_live_ == 0 && !replaying_) {
    give_up(slab_, std::exchange(slab_bytes_, 0), kStep);
    slab_ = nullptr;
    if (std::byte* data = accelerator_->allocate(bytes)) return data;
  }
  const Accelerator::Memory memory = accelerator_->memory();
  std::string held;
  for (const Owned& o : owners_)
    if (o.peak > 0)
      held += str(held.empty() ? "" : ", ", o.name, " ", mebibytes(o.bytes), " (", mebibytes(o.peak), ")");
  fail(ExitCode::kUnavailable, "MEM-03", accelerator_->name(), ": out of memory: asked for ",
       mebibytes(bytes), ", free are ", mebibytes(memory.free), " of ", mebibytes(memory.total),
       "; held by owner (largest so far): ", held.empty() ? "nothing" : held,
       ". Lower recipe.micro_batch_size (global_batch_size may stay), lower data.seq_len, or take a smaller "
       "model or a GPU with more free memory");
}

void Arena::give_up(std::byte* data, size_t bytes, int owner) {
  if (data == nullptr) return;
  owners_[static_cast<size_t>(owner)].bytes -= bytes;
  if (accelerator_ != nullptr) {
    accelerator_->free(data);
  } else if (memory_ == Memory::kReal) {
    std::free(data);
  } else {
    ::munmap(data, bytes);
  }
}

Arena::Owner::Owner(Arena& arena, const std::string& name) : arena_(arena), before_(arena.owner_) {
  auto& owners = arena.owners_;
  auto found = std::find_if(owners.begin(), owners.end(), [&](const Owned& o) { return o.name == name; });
  if (found == owners.end()) found = owners.insert(found, Owned{name});
  arena.owner_ = static_cast<int>(found - owners.begin());
}

Arena::~Arena() {
  free_cache();
  give_up(slab_, slab_bytes_, kStep);
}

Arena::Ticket Arena::allocate(size_t requested) {
  const size_t bytes = rounded(requested);
  if (current_ == nullptr) {
    persistent_bytes_ += bytes;
    return guarding_ ? allocate_guarded(requested) : Ticket{obtain(bytes, owner_), -1, 0, false, owner_};
  }
  const int64_t index = next_request_++;
  ++clock_;
  step_bytes_ += bytes;
  if (replaying_) {
    const auto& planned = current_->planned;
    const bool known = index < static_cast<int64_t>(planned.size());
    if (known && planned[index].bytes == bytes && planned[index].birth == clock_) {
      if (planned[index].death < 0) return {obtain(bytes, kStep), index, step_};
      ++slab_live_;
      return {slab_ + planned[index].offset, index, step_};
    }
    leave_plan(known ? str("request ", index, " asks for ", bytes, " bytes at tick ", clock_,
                           ", planned were ", planned[index].bytes, " at tick ", planned[index].birth)
                     : str("request ", index, " is one more than planned"));
  }
  if (recording_) log_.push_back({bytes, clock_, -1, 0});
  return {from_cache(bytes), index, step_};
}

void Arena::release(const Ticket& ticket, size_t requested) {
  const size_t bytes = rounded(requested);
  if (ticket.request < 0) {
    persistent_bytes_ -= bytes;
    if (ticket.guarded) return release_guarded(ticket, requested);
    give_up(ticket.data, bytes, ticket.owner);
    return;
  }
  const bool in_slab = release_in_slab(ticket.data);
  if (current_ == nullptr || ticket.step != step_) {  // it outlived its step
    if (!in_slab) give_up(ticket.data, bytes, kStep);
    return;
  }
  ++clock_;
  step_bytes_ -= bytes;
  // The plan may have given the memory of a block that should be gone by now to the next request.
  if (replaying_ && current_->planned[ticket.request].death != clock_)
    leave_plan(str("block ", ticket.request, " is released at tick ", clock_, ", planned was tick ",
                   current_->planned[ticket.request].death));
  if (recording_) log_[ticket.request].death = clock_;
  if (in_slab) return;
  cache_.emplace(bytes, ticket.data);
}

void Arena::leave_plan(const std::string& why) {
  replaying_ = false;
  current_->valid = false;
  if (on_replan) on_replan(str("[arena] step '", current_key_, "': ", why, "; planning anew"));
}

bool Arena::release_in_slab(std::byte* data) {
  auto inside = [&](const std::byte* slab, size_t bytes) { return data >= slab && data < slab + bytes; };
  if (inside(slab_, slab_bytes_)) {
    --slab_live_;
    return true;
  }
  for (auto slab = retired_.begin(); slab != retired_.end(); ++slab) {
    if (!inside(slab->data, slab->bytes)) continue;
    if (--slab->live == 0) {
      give_up(slab->data, slab->bytes, kStep);
      retired_.erase(slab);
    }
    return true;
  }
  return false;
}

Arena::Ticket Arena::allocate_guarded(size_t requested) {
  const size_t bytes = rounded(requested);
  std::byte* guard = obtain(kGuard + bytes + kGuard, owner_);
  auto fill = [&](std::byte* to, unsigned char value, size_t count) {
    if (accelerator_ != nullptr) return accelerator_->fill(to, value, count);
    std::memset(to, value, count);
  };
  fill(guard, kGuardByte, kGuard + bytes + kGuard);
  fill(guard + kGuard, 0xFF, requested);
  const bool on_host = accelerator_ == nullptr;
  forbid(guard, guard + kGuard, true, on_host);
  forbid(guard + kGuard + requested, guard + kGuard + bytes + kGuard, true, on_host);
  return {guard + kGuard, -1, 0, true, owner_};
}

bool Arena::whole_guard(const std::byte* begin, const std::byte* end) const {
  std::vector<std::byte> found(static_cast<size_t>(end - begin));
  if (accelerator_ != nullptr) {
    accelerator_->download(begin, found.data(), found.size());
  } else {
    std::copy(begin, end, found.begin());
  }
  return std::all_of(found.begin(), found.end(), [](std::byte b) { return b == std::byte{kGuardByte}; });
}

void Arena::release_guarded(const Ticket& ticket, size_t requested) {
  const size_t bytes = rounded(requested);
  const std::byte *before = ticket.data - kGuard, *end = ticket.data + bytes + kGuard;
  forbid(before, ticket.data, false, accelerator_ == nullptr);
  forbid(ticket.data + requested, end, false, accelerator_ == nullptr);
  if (!whole_guard(before, ticket.data) || !whole_guard(ticket.data + requested, end)) ++damaged_blocks_;
  give_up(ticket.data - kGuard, kGuard + bytes + kGuard, ticket.owner);
}

std::byte* Arena::from_cache(size_t bytes) {
  const auto it = cache_.lower_bound(bytes);
  if (it != cache_.end() && it->first == bytes) {
    std::byte* data = it->second;
    cache_.erase(it);
    return data;
  }
  return obtain(bytes, kStep);
}

void Arena::free_cache() {
  for (auto& [bytes, data] : cache_) give_up(data, bytes, kStep);
  cache_.clear();
}

void Arena::begin_step(const std::string& key) {
  RK_CHECK(current_ == nullptr, "[Arena] step '", key, "' begins inside '", current_key_, "'");
  current_ = &keys_[key];
  current_key_ = key;
  replaying_ = current_->valid;
  recording_ = !replaying_;
  clock_ = next_request_ = 0;
  step_bytes_ = 0;
  ++step_;
  log_.clear();
  if (replaying_ && current_->plan.slab_bytes > slab_bytes_) {
    give_up(slab_, slab_bytes_, kStep);
    slab_ = nullptr;
    slab_bytes_ = 0;
    slab_ = obtain(current_->plan.slab_bytes, kStep);
    slab_bytes_ = current_->plan.slab_bytes;
  }
}

void Arena::end_step() {
  RK_CHECK(current_ != nullptr, "[Arena] no step to end");
  if (slab_live_ > 0) {  // their memory must not go to the next step
    if (replaying_) leave_plan(str(slab_live_, " blocks outlive the step, which was not planned"));
    retired_.push_back({slab_, slab_bytes_, slab_live_});
    slab_ = nullptr;
    slab_bytes_ = 0;
    slab_live_ = 0;
  }
  if (recording_) make_plan(*current_);
  current_->followed = replaying_;
  free_cache();
  current_ = nullptr;
  step_bytes_ = 0;
  recording_ = replaying_ = false;
}

// Size-ordered interval fitting: large blocks first, each at the lowest offset free during its whole life.
void Arena::make_plan(KeyState& state) {
  state.planned = log_;
  state.plan = {};
  state.plan.requests = static_cast<int64_t>(log_.size());
  std::vector<int64_t> order;
  for (int64_t i = 0; i < static_cast<int64_t>(log_.size()); ++i) {
    state.plan.total_bytes += log_[i].bytes;
    if (log_[i].death >= 0) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return log_[a].bytes > log_[b].bytes; });
  std::vector<int64_t> placed;  // by offset
  for (const int64_t i : order) {
    Request& r = state.planned[i];
    size_t offset = 0;
    for (const int64_t j : placed) {
      const Request& q = state.planned[j];
      if (q.death < r.birth || r.death < q.birth) continue;  // never alive together
      if (q.offset >= offset + r.bytes) break;
      offset = std::max(offset, q.offset + q.bytes);
    }
    r.offset = offset;
    state.plan.slab_bytes = std::max(state.plan.slab_bytes, offset + r.bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), i,
                                   [&](int64_t a, int64_t b) {
                                     return state.planned[a].offset < state.planned[b].offset;
                                   }),
                  i);
  }
  std::vector<std::pair<int64_t, int64_t>> events;
  for (const int64_t i : order) {
    events.emplace_back(state.planned[i].birth, static_cast<int64_t>(state.planned[i].bytes));
    events.emplace_back(state.planned[i].death, -static_cast<int64_t>(state.planned[i].bytes));
  }
  std::sort(events.begin(), events.end());
  int64_t live = 0;
  for (const auto& [tick, bytes] : events) {
    live += bytes;
    state.plan.peak_bytes = std::max(state.plan.peak_bytes, static_cast<size_t>(std::max<int64_t>(live, 0)));
  }
  state.valid = true;
}

bool Arena::repeats(const std::string& key) const {
  const auto it = keys_.find(key);
  if (it == keys_.end() || !it->second.valid || !it->second.followed) return false;
  const KeyState& state = it->second;
  return state.plan.slab_bytes <= slab_bytes_ && std::none_of(state.planned.begin(), state.planned.end(),
                                                              [](const Request& r) { return r.death < 0; });
}

const Arena::Plan* Arena::plan(const std::string& key) const {
  const auto it = keys_.find(key);
  return it == keys_.end() || !it->second.valid ? nullptr : &it->second.plan;
}

}  // namespace rookery
