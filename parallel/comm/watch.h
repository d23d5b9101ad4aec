// watch.h: what all communicators of a process share: the time limit of a wait, the alarm that ends all
// waits, and where this rank is, which the lifeline (lifeline.h) tells the others.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/error.h"
#include "parallel/comm/communicator.h"

namespace rookery {

inline constexpr std::chrono::milliseconds kCommTimeout = std::chrono::minutes(5);
inline constexpr std::string_view kTimeoutId = "COMM-01", kMismatchId = "COMM-02", kPeerFailedId = "COMM-03";

// Thread-safe.
class Watch {
 public:
  struct Options {
    std::chrono::milliseconds timeout = kCommTimeout;
    bool verify = false;  // compare what the ranks call before each collective
  };
  // hosts: of each rank of the world; empty: the host is not told.
  Watch(int rank, int size, Options options, std::vector<std::string> hosts = {});

  int rank() const { return rank_; }
  int size() const { return size_; }
  const Options& options() const { return options_; }
  std::string name(int rank) const;  // "rank 3 on node7"

  // The first alarm counts. Whoever waits throws it within milliseconds.
  void raise(ExitCode code, std::string_view id, std::string what);
  bool raised() const noexcept { return raised_.load(std::memory_order_acquire); }
  void check() const {
    if (raised()) throw_alarm();
  }
  Error alarm() const;  // once raised

  // This rank gives up: the others are told, and its own waits end as theirs do. kHang makes theirs kHang
  // too, any other code is kPeerFailed to them.
  void abort(ExitCode code, std::string_view why);
  // What tells the others.
  void on_abort(std::function<void(ExitCode code, const std::string& why)> tell);
  // How long after its own time limit a rank waits for a better explanation than it has.
  void set_grace(std::chrono::milliseconds grace) { grace_ = grace; }
  std::chrono::milliseconds grace() const { return grace_; }

  // Where this rank is: what it does ("forward, step 12") and its last collective of any communicator.
  void set_phase(std::string_view phase);
  uint64_t begin_collective(Collective kind, size_t bytes);  // its number, from 1
  void end_collective();                                     // of the thread that began it
  std::string whereabouts() const;  // "forward, step 12; 34 collectives, in all_reduce of 4096 bytes"

  // Adds where every rank was last heard of to a message; set by the lifeline.
  void on_timeout(std::function<std::string()> describe);
  std::string describe_ranks() const;

 private:
  [[noreturn]] void throw_alarm() const;

  const int rank_, size_;
  const Options options_;
  const std::vector<std::string> hosts_;
  std::atomic<bool> raised_{false};
  std::atomic<std::chrono::milliseconds> grace_{std::chrono::milliseconds(0)};
  mutable std::mutex mutex_;
  ExitCode code_ = ExitCode::kOk;
  std::string id_, what_, phase_ = "start";
  uint64_t collectives_ = 0;
  int under_way_ = 0;
  Collective last_ = Collective::kBarrier;
  size_t last_bytes_ = 0;
  std::function<void(ExitCode, const std::string&)> tell_;
  std::function<std::string()> describe_;
};

}  // namespace rookery
