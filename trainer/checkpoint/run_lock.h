// run_lock.h: one process per run folder. RUN/lock names its owner (host, pid, start time); a lock whose
// owner is gone is taken over with a warning.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

namespace rookery::checkpoint {

class RunLock {
 public:
  // Makes the folder if needed. CKPT-30 (kCannotCreate) if another process holds the lock: on this host as
  // long as it lives; on another as long as it touched the file in the last two minutes.
  explicit RunLock(const std::filesystem::path& run_dir,
                   const std::function<void(const std::string&)>& warn = {});
  RunLock(RunLock&&) noexcept;
  RunLock& operator=(RunLock&&) noexcept;
  ~RunLock();  // gives the lock back

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace rookery::checkpoint
