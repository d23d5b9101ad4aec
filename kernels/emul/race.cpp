// race.cpp: happens-before and the shadow of memory.
#include "kernels/emul/race.h"

#include <algorithm>
#include <bit>
#include <bitset>
#include <iterator>

#include "kernels/base/str.h"
#include "kernels/emul/report.h"

namespace rookery::emulator {
namespace {

std::string beside_tensor(int thread, const char* what, uintptr_t where) {
  return str("thread ", thread, " ", what, " global memory before or behind a tensor at ",
             source_line(where));
}

// Code addresses are kept as distances from this function: all of a program lies within 2 GB.
int32_t near(uintptr_t where) {
  return static_cast<int32_t>(where - reinterpret_cast<uintptr_t>(&source_line));
}
uintptr_t far(int32_t where) {
  return reinterpret_cast<uintptr_t>(&source_line) + static_cast<uintptr_t>(static_cast<intptr_t>(where));
}

}  // namespace

RaceDetector::RaceDetector() : known_(new uint32_t[size_t{kMaxThreads} * kMaxThreads]()) {
  readers_.resize(1);
}

void RaceDetector::forget_everything() {
  now_ = 1;
  clock_.fill(0);
  std::fill_n(known_.get(), size_t{kMaxThreads} * kMaxThreads, 0);
  shared_cells_.clear();
  pages_.clear();
  cached_pages_.fill({});
  extensions_.fill({});
}

void RaceDetector::begin_launch() {
  if (now_ > UINT32_MAX / 2) forget_everything();  // long before the counter comes round
  launch_start_ = ++now_;
  blocks_.clear();
}

void RaceDetector::begin_block(const uint3& block, int threads, const char* shared, size_t shared_bytes) {
  threads_ = threads;
  block_start_ = barrier_time_ = ++now_;
  blocks_.push_back({block_start_, block});
  across_warps_ = false;
  readers_.resize(1);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(shared);
  if (begin != shared_ || shared_cells_.size() < shared_bytes / kGranule + 1)
    shared_cells_.assign(shared_bytes / kGranule + 1, {});
  shared_ = begin;
  shared_bytes_ = shared_bytes;
}

void RaceDetector::block_barrier() {
  barrier_time_ = ++now_;
  readers_.resize(1);  // those of before need not be asked again
}

void RaceDetector::release(int thread, VectorClock& to) {
  across_warps_ = true;
  to.resize(static_cast<size_t>(threads_));
  const uint32_t* own = known(thread);
  for (size_t i = 0; i < to.size(); ++i) to[i] = std::max(to[i], own[i]);
  to[static_cast<size_t>(thread)] = stamp(thread);
  clock_[static_cast<size_t>(thread)] = ++now_;
}

void RaceDetector::acquire(int thread, const VectorClock& from) {
  uint32_t* own = known(thread);
  for (size_t i = 0; i < from.size(); ++i) own[i] = std::max(own[i], from[i]);
}

void RaceDetector::syncwarp(int first, uint32_t mask) {
  // Nothing newer than the last block barrier is known of other warps until something was released to them.
  const int begin = across_warps_ ? 0 : first;
  const int end = across_warps_ ? threads_ : std::min(first + kWarpSize, threads_);
  std::array<uint32_t, kMaxThreads> all{};
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int thread = first + std::countr_zero(rest);
    const uint32_t* own = known(thread);
    for (int i = begin; i < end; ++i)
      all[static_cast<size_t>(i)] = std::max(all[static_cast<size_t>(i)], own[i]);
  }
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int thread = first + std::countr_zero(rest);
    all[static_cast<size_t>(thread)] = stamp(thread);
  }
  ++now_;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int thread = first + std::countr_zero(rest);
    std::copy(all.begin() + begin, all.begin() + end, known(thread) + begin);
    clock_[static_cast<size_t>(thread)] = now_;
  }
}

// The cell of an address; those of the addresses behind follow it up to the end of a page or of shared
// memory.
RaceDetector::Cell* RaceDetector::cells_of(uintptr_t address) {
  if (in_shared(address)) return &shared_cells_[(address - shared_) / kGranule];
  const uintptr_t number = address / kPageBytes;
  CachedPage& cached = cached_pages_[number % cached_pages_.size()];
  if (cached.number != number) {
    auto& page = pages_[number];
    if (page == nullptr) page = std::make_unique<Page>();
    cached = {number, page.get()};
  }
  return &cached.page->cells[address % kPageBytes / kGranule];
}

std::span<RaceDetector::Cell> RaceDetector::shared_cells(const char* begin, size_t bytes) {
  const size_t offset = reinterpret_cast<uintptr_t>(begin) - shared_, first = offset / kGranule;
  return std::span(shared_cells_).subspan(first, (offset + bytes + kGranule - 1) / kGranule - first);
}

uint32_t RaceDetector::new_set(uint32_t others, int thread, uint32_t clock) {
  readers_.push_back({others, clock, readers_[others].length + 1, static_cast<uint16_t>(thread)});
  return static_cast<uint32_t>(readers_.size() - 1);
}

// `readers` and one more: what has been asked before is remembered, so that cells that are read alike share
// sets.
uint32_t RaceDetector::with_reader(uint32_t readers, int thread, uint32_t clock) {
  const Reader& last = readers_[readers];
  if (last.clock == clock && last.thread == thread) return readers;
  Extension& known =
      extensions_[(readers * 31 + static_cast<uint32_t>(thread) * 7 + clock) % extensions_.size()];
  if (known.readers == readers && known.thread == thread && known.clock == clock) return known.result;
  const bool long_list = last.length >= 2 * static_cast<uint32_t>(threads_);
  const uint32_t result = new_set(long_list ? pruned(readers, thread) : readers, thread, clock);
  known = {readers, clock, result, static_cast<uint16_t>(thread)};
  return result;
}

// The last read of each thread, without those that are ordered before `thread`: who comes after that one
// comes after them.
uint32_t RaceDetector::pruned(uint32_t readers, int thread) {
  std::bitset<kMaxThreads> seen;
  std::vector<Reader> kept;
  for (uint32_t r = readers; r != 0; r = readers_[r].others) {
    const Reader& reader = readers_[r];
    if (seen[reader.thread] || ordered(reader.thread, reader.clock, thread)) continue;
    seen[reader.thread] = true;
    kept.push_back(reader);
  }
  uint32_t result = 0;
  for (auto r = kept.rbegin(); r != kept.rend(); ++r) result = new_set(result, r->thread, r->clock);
  return result;
}

// The block that was running then.
std::string RaceDetector::block_at(uint32_t clock) const {
  const auto later = std::upper_bound(blocks_.begin(), blocks_.end(), clock,
                                      [](uint32_t c, const Block& block) { return c < block.start; });
  if (later == blocks_.begin()) return "another block";
  const uint3& index = std::prev(later)->index;
  return str("block (", index.x, ", ", index.y, ", ", index.z, ")");
}

std::string RaceDetector::race(int thread, uintptr_t address, uintptr_t where, const char* what,
                               const std::string& other, const char* other_what, int32_t other_where) const {
  const std::string place =
      in_shared(address) ? str("shared memory, byte ", address - shared_) : "global memory";
  return str("race in ", place, ":\n  thread ", thread, " ", what, " at ", source_line(where), "\n  ", other,
             " ", other_what, " at ", source_line(far(other_where)), "\n  with nothing that orders the two");
}

// check(cell, address of it) for each cell of the bytes, until one returns what is wrong.
template <class Check>
[[gnu::always_inline]] inline std::string RaceDetector::each_cell(uintptr_t address, size_t bytes,
                                                                  const Check& check) {
  Cell* cell = nullptr;
  for (uintptr_t at = address / kGranule * kGranule; at < address + bytes; at += kGranule, ++cell) {
    if (cell == nullptr || at % kPageBytes == 0) cell = cells_of(at);
    if (std::string wrong = check(*cell, at); !wrong.empty()) return wrong;
  }
  return {};
}

std::string RaceDetector::read(int thread, uintptr_t address, size_t bytes, uintptr_t where) {
  const uint32_t now = stamp(thread);
  const bool shared = in_shared(address);
  return each_cell(address, bytes, [&](Cell& cell, uintptr_t at) -> std::string {
    if (shared) {
      if (cell.write_clock < block_start_)
        return str("thread ", thread, " reads byte ", at - shared_,
                   " of shared memory, which nobody has written, at ", source_line(where));
      if (cell.use == Use::kCopy)
        return str("thread ", thread, " reads byte ", at - shared_, " of shared memory at ",
                   source_line(where), "\n  before the cp_async16 of thread ", cell.writer, " to it, at ",
                   source_line(far(cell.write_where)), ", has been waited for");
      if (cell.use != Use::kData)
        return str("thread ", thread, " reads byte ", at - shared_, " of shared memory, ",
                   cell.use == Use::kZone ? "which is behind the end of an array" : "which is an mbarrier",
                   ", at ", source_line(where));
    } else {
      if (cell.use != Use::kData) return beside_tensor(thread, "reads", where);
      if (cell.write_clock >= launch_start_ && cell.write_clock < block_start_)
        return race(thread, at, where, "reads", block_at(cell.write_clock), "writes", cell.write_where);
    }
    if (cell.write_clock >= block_start_ && !ordered(cell.writer, cell.write_clock, thread))
      return race(thread, at, where, "reads", str("thread ", cell.writer), "writes", cell.write_where);
    if (cell.first_read < (shared ? block_start_ : launch_start_)) cell.first_read = now;
    cell.readers = with_reader(cell.read_clock < barrier_time_ ? 0 : cell.readers, thread, now);
    cell.read_clock = std::max(cell.read_clock, now);
    cell.read_where = near(where);
    return {};
  });
}

std::string RaceDetector::write(int thread, uintptr_t address, size_t bytes, uintptr_t where) {
  const uint32_t now = stamp(thread);
  const bool shared = in_shared(address);
  return each_cell(address, bytes, [&](Cell& cell, uintptr_t at) -> std::string {
    if (shared) {
      if (cell.write_clock >= block_start_ && cell.use != Use::kData)
        return str("thread ", thread, " writes byte ", at - shared_, " of shared memory, ",
                   cell.use == Use::kZone      ? "which is behind the end of an array"
                   : cell.use == Use::kBarrier ? "which is an mbarrier"
                                               : "to which a cp_async16 is under way",
                   ", at ", source_line(where));
    } else {
      if (cell.use != Use::kData) return beside_tensor(thread, "writes", where);
      if (cell.write_clock >= launch_start_ && cell.write_clock < block_start_)
        return race(thread, at, where, "writes", block_at(cell.write_clock), "writes", cell.write_where);
      if (cell.first_read >= launch_start_ && cell.first_read < block_start_)
        return race(thread, at, where, "writes", block_at(cell.first_read), "reads", cell.read_where);
    }
    if (cell.write_clock >= block_start_ && !ordered(cell.writer, cell.write_clock, thread))
      return race(thread, at, where, "writes", str("thread ", cell.writer), "writes", cell.write_where);
    if (cell.read_clock >= barrier_time_) {
      for (uint32_t r = cell.readers; r != 0; r = readers_[r].others)
        if (!ordered(readers_[r].thread, readers_[r].clock, thread))
          return race(thread, at, where, "writes", str("thread ", readers_[r].thread), "reads",
                      cell.read_where);
    }
    cell = {now, 0, 0, 0, near(where), 0, static_cast<uint16_t>(thread), Use::kData};
    return {};
  });
}

void RaceDetector::set_forbidden(uintptr_t begin, size_t bytes, bool forbidden) {
  for (uintptr_t at = (begin + kGranule - 1) / kGranule * kGranule; at < begin + bytes; at += kGranule)
    cells_of(at)->use = forbidden ? Use::kZone : Use::kData;
}

void RaceDetector::set_use(const char* begin, size_t bytes, Use use) {
  for (Cell& cell : shared_cells(begin, bytes)) {
    if (use == Use::kZone) cell = {block_start_, 0, 0, 0, 0, 0, 0, use};
    cell.use = use;
  }
}

void RaceDetector::complete_copy(int thread, const char* begin, size_t bytes, uint32_t stamp) {
  for (Cell& cell : shared_cells(begin, bytes)) {
    cell.use = Use::kData;
    cell.write_clock = stamp;
    cell.writer = static_cast<uint16_t>(thread);
  }
}

}  // namespace rookery::emulator
