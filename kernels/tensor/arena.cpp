// arena.cpp: record, pack, replay (kernels/tensor/arena.h).
#include "kernels/tensor/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "kernels/base/error.h"

namespace rookery {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kHugePage = size_t{2} << 20;
size_t rounded(size_t bytes) { return (std::max<size_t>(bytes, 1) + kAlign - 1) / kAlign * kAlign; }

std::byte* heap(size_t bytes) {
  const bool large = bytes >= 2 * kHugePage;
  const size_t align = large ? kHugePage : kAlign;
  auto* data = static_cast<std::byte*>(std::aligned_alloc(align, (bytes + align - 1) / align * align));
  if (data == nullptr)
    fail(ExitCode::kUnavailable, "MEM-01", "out of memory: asked for ", bytes,
         " bytes. Use a smaller micro_batch_size, seq_len or model");
  if (large) madvise(data, bytes, MADV_HUGEPAGE);  // fewer TLB misses; a refusal costs nothing
  return data;
}

}  // namespace

Arena::~Arena() {
  free_cache();
  std::free(slab_);
}

Arena::Ticket Arena::allocate(size_t requested) {
  const size_t bytes = rounded(requested);
  if (current_ == nullptr) {
    persistent_bytes_ += bytes;
    return {heap(bytes), -1, 0};
  }
  const int64_t index = next_request_++;
  ++clock_;
  if (replaying_) {
    const auto& planned = current_->planned;
    if (index < static_cast<int64_t>(planned.size()) && planned[index].bytes == bytes) {
      if (planned[index].death >= 0) return {slab_ + planned[index].offset, index, step_};
      served_.resize(index + 1, nullptr);
      return {served_[index] = heap(bytes), index, step_};
    }
    replaying_ = false;
    current_->valid = false;
    if (on_replan)
      on_replan(str(
          "[arena] step '", current_key_, "': request ", index, " asks for ", bytes, " bytes, planned were ",
          index < static_cast<int64_t>(planned.size()) ? planned[index].bytes : 0, "; planning anew"));
  }
  log_.resize(index + 1, Request{0, -1, -1, 0});
  log_[index] = {bytes, clock_, -1, 0};
  served_.resize(index + 1, nullptr);
  return {served_[index] = from_cache(bytes), index, step_};
}

void Arena::release(const Ticket& ticket, size_t requested) {
  const size_t bytes = rounded(requested);
  if (ticket.request < 0) {
    persistent_bytes_ -= bytes;
    std::free(ticket.data);
    return;
  }
  const bool of_slab = slab_ != nullptr && ticket.data >= slab_ && ticket.data < slab_ + slab_bytes_;
  if (current_ == nullptr || ticket.step != step_) {  // it outlived its step
    if (!of_slab) std::free(ticket.data);
    return;
  }
  ++clock_;
  if (of_slab) return;
  served_[ticket.request] = nullptr;
  if (replaying_) {
    std::free(ticket.data);
  } else {
    if (ticket.request < static_cast<int64_t>(log_.size())) log_[ticket.request].death = clock_;
    cache_.emplace(bytes, ticket.data);
  }
}

std::byte* Arena::from_cache(size_t bytes) {
  const auto it = cache_.lower_bound(bytes);
  if (it != cache_.end() && it->first == bytes) {
    std::byte* data = it->second;
    cache_.erase(it);
    return data;
  }
  return heap(bytes);
}

void Arena::free_cache() {
  for (auto& [bytes, data] : cache_) std::free(data);
  cache_.clear();
}

void Arena::begin_step(const std::string& key) {
  RK_CHECK(current_ == nullptr, "[Arena] step '", key, "' begins inside '", current_key_, "'");
  current_ = &keys_[key];
  current_key_ = key;
  replaying_ = current_->valid;
  clock_ = next_request_ = 0;
  ++step_;
  log_.clear();
  served_.clear();
  if (replaying_ && current_->plan.slab_bytes > slab_bytes_) {
    std::free(slab_);
    slab_bytes_ = current_->plan.slab_bytes;
    slab_ = heap(slab_bytes_);
  }
}

void Arena::end_step() {
  RK_CHECK(current_ != nullptr, "[Arena] no step to end");
  if (!replaying_) {
    // A step that left its plan halfway has logged only the rest: the next one records in full.
    const bool complete = log_.empty() || log_.front().birth >= 0;
    if (complete) make_plan(*current_);
    free_cache();
  }
  current_ = nullptr;
  replaying_ = false;
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

const Arena::Plan* Arena::plan(const std::string& key) const {
  const auto it = keys_.find(key);
  return it == keys_.end() || !it->second.valid ? nullptr : &it->second.plan;
}

}  // namespace rookery
