// watch.cpp: the alarm and the whereabouts of one process (parallel/comm/watch.h).
#include "parallel/comm/watch.h"

#include "kernels/base/fault.h"

namespace rookery {

Watch::Watch(int rank, int size, Options options, std::vector<std::string> hosts)
    : rank_(rank), size_(size), options_(options), hosts_(std::move(hosts)) {
  RK_CHECK(hosts_.empty() || static_cast<int>(hosts_.size()) == size, "[Watch] ", hosts_.size(), " hosts of ",
           size, " ranks");
}

std::string Watch::name(int rank) const {
  return hosts_.empty() ? str("rank ", rank) : str("rank ", rank, " on ", hosts_[static_cast<size_t>(rank)]);
}

void Watch::raise(ExitCode code, std::string_view id, std::string what) {
  std::lock_guard lock(mutex_);
  if (raised()) return;
  code_ = code;
  id_ = id;
  what_ = std::move(what);
  raised_.store(true, std::memory_order_release);
}

Error Watch::alarm() const {
  std::lock_guard lock(mutex_);
  return Error(code_, id_, what_);
}

void Watch::throw_alarm() const { throw alarm(); }

void Watch::abort(ExitCode code, std::string_view why) {
  std::function<void(ExitCode, const std::string&)> tell;
  {
    std::lock_guard lock(mutex_);
    if (raised()) return;  // the others know
    tell = tell_;
  }
  raise(ExitCode::kPeerFailed, kPeerFailedId, str("this rank gave up: ", why));
  if (tell) tell(code, std::string(why));
}

void Watch::on_abort(std::function<void(ExitCode, const std::string&)> tell) {
  std::lock_guard lock(mutex_);
  tell_ = std::move(tell);
}

void Watch::set_phase(std::string_view phase) {
  std::lock_guard lock(mutex_);
  phase_ = phase;
}

uint64_t Watch::begin_collective(Collective kind, size_t bytes) {
  fault_point("comm.collective");
  std::lock_guard lock(mutex_);
  ++under_way_;
  last_ = kind;
  last_bytes_ = bytes;
  return ++collectives_;
}

void Watch::end_collective() {
  std::lock_guard lock(mutex_);
  --under_way_;
}

std::string Watch::whereabouts() const {
  std::lock_guard lock(mutex_);
  if (collectives_ == 0) return str(phase_, "; no collective yet");
  return str(phase_, "; collective ", collectives_, ", ", under_way_ > 0 ? "in " : "after ", name_of(last_),
             " of ", last_bytes_, " bytes");
}

void Watch::on_timeout(std::function<std::string()> describe) {
  std::lock_guard lock(mutex_);
  describe_ = std::move(describe);
}

std::string Watch::describe_ranks() const {
  std::function<std::string()> describe;
  {
    std::lock_guard lock(mutex_);
    describe = describe_;
  }
  return describe ? describe() : "";
}

}  // namespace rookery
