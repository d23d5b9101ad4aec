// banks.cpp: requests of warps from accesses of lanes, and the steps that they take.
#include "kernels/emul/banks.h"

#include <algorithm>

#include "kernels/emul/race.h"

namespace rookery::emulator {
namespace {

constinit thread_local BankCounter* counter_of_thread = nullptr;

}  // namespace

BankCounter* bank_counter() { return counter_of_thread; }

BankReport bank_conflicts(const std::function<void()>& body) {
  BankCounter counter;
  struct Scope {
    explicit Scope(BankCounter* c) { counter_of_thread = c; }
    ~Scope() { counter_of_thread = nullptr; }
  } scope(&counter);
  body();
  return counter.report();
}

void BankCounter::begin_block(const void* kernel, uintptr_t shared, int threads) {
  kernel_ = kernel;
  shared_ = shared;
  threads_ = threads;
  streams_.clear();
}

void BankCounter::note(int thread, uintptr_t address, size_t bytes, uintptr_t where) {
  const int warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int lanes = std::min(threads_ - warp * kWarpSize, kWarpSize);
  Stream& stream = streams_[{where, warp}];
  const uint64_t place = stream.times[static_cast<size_t>(lane)]++ - stream.first;
  if (place >= stream.pending.size()) stream.pending.resize(place + 1);
  Request& request = stream.pending[place];
  request.lanes |= uint32_t{1} << lane;
  request.bytes = bytes;
  request.offset[static_cast<size_t>(lane)] = static_cast<uint32_t>(address - shared_);
  const uint32_t all = static_cast<uint32_t>((uint64_t{1} << lanes) - 1);
  while (!stream.pending.empty() && stream.pending.front().lanes == all) {
    finish(stream.pending.front(), report_[{kernel_, where}]);
    stream.pending.pop_front();
    ++stream.first;
  }
}

void BankCounter::end_block() {
  for (const auto& [key, stream] : streams_)
    for (const Request& request : stream.pending)
      if (request.lanes != 0) finish(request, report_[{kernel_, key.first}]);
  streams_.clear();
}

// Lanes with 8 bytes go in two halves of a warp, with 16 in four quarters.
void BankCounter::finish(const Request& request, BankConflicts& total) const {
  constexpr uint32_t kBanks = 32, kWord = 4;
  const size_t words = std::max<size_t>(1, request.bytes / kWord), group = kWarpSize / words;
  uint64_t least = 0, steps = 0;
  for (size_t first = 0; first < kWarpSize; first += group) {
    std::array<std::vector<uint32_t>, kBanks> wanted;  // different words of each bank
    size_t fullest = 0;
    for (size_t lane = first; lane < first + group; ++lane) {
      if ((request.lanes >> lane & 1) == 0) continue;
      for (uint32_t word = request.offset[lane] / kWord;
           word <= (request.offset[lane] + request.bytes - 1) / kWord; ++word) {
        std::vector<uint32_t>& bank = wanted[word % kBanks];
        if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
        fullest = std::max(fullest, bank.size());
      }
    }
    least += fullest > 0;
    steps += fullest;
  }
  ++total.requests;
  total.least += least;
  total.steps += steps;
  total.worst = std::max(total.worst, static_cast<double>(steps) / static_cast<double>(least));
}

}  // namespace rookery::emulator
