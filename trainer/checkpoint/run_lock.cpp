// run_lock.cpp: the lock is an flock on RUN/lock, which the system gives back when its owner dies; the file's
// text tells who that is. Hosts that share the folder but not the flock are told by the file's age: the owner
// touches it every 20 s.
#include "trainer/checkpoint/run_lock.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "kernels/base/error.h"
#include "kernels/base/io.h"
#include "trainer/checkpoint/manifest.h"

namespace rookery::checkpoint {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace std::chrono_literals;

constexpr auto kTouchEvery = 20s;
constexpr int64_t kStaleAfterSeconds = 120;

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

struct Owner {
  std::string host, since;
  int64_t pid = 0;
};

// Nothing where the last owner gave the lock back.
std::optional<Owner> owner_of(const fs::path& path) {
  const json j = json::parse(io::read_file(path, 1 << 16), nullptr, false);
  if (!j.is_object() || !j.contains("host")) return std::nullopt;
  try {
    return Owner{j.at("host").get<std::string>(), j.at("since").get<std::string>(),
                 j.at("pid").get<int64_t>()};
  } catch (const json::exception&) {
    return std::nullopt;
  }
}

std::string describe(const Owner& o) { return str("process ", o.pid, " on ", o.host, ", since ", o.since); }

// Age of the file by the clock of the file system, so that two hosts need not agree on the time.
int64_t age_seconds(const fs::path& path) {
  const fs::path probe = io::temporary_beside(path);
  io::OutputFile(probe, "run.lock").close();
  struct stat now, then;
  const bool known = ::stat(probe.c_str(), &now) == 0 && ::stat(path.c_str(), &then) == 0;
  io::remove(probe, "run.lock");
  return known ? now.st_mtim.tv_sec - then.st_mtim.tv_sec : 0;
}

}  // namespace

struct RunLock::State {
  io::OutputFile file;
  int fd = -1;
  std::mutex mutex;
  std::condition_variable_any wake;
  std::jthread toucher;

  explicit State(io::OutputFile f) : file(std::move(f)) {}
  ~State() {
    toucher.request_stop();
    if (toucher.joinable()) toucher.join();
    if (fd < 0) return;
    // An empty file says that the lock was given back; it stays, since removing it would race with the next
    // owner.
    if (owned && ::ftruncate(fd, 0) != 0) errno = 0;
    ::close(fd);
  }
  bool owned = false;
};

RunLock::RunLock(const fs::path& run_dir, const std::function<void(const std::string&)>& warn) {
  io::create_directories(run_dir);
  const fs::path path = run_dir / "lock";
  state_ = std::make_unique<State>(io::OutputFile(path, "run.lock", io::OutputFile::Mode::kAppend));
  State& s = *state_;
  s.fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  const bool free_here = s.fd >= 0 && ::flock(s.fd, LOCK_EX | LOCK_NB) == 0;
  const bool no_flock = !free_here && errno != EWOULDBLOCK;  // a file system without locks: the text decides
  const auto owner = owner_of(path);
  const bool same_host = owner && owner->host == host_name();
  bool taken = !free_here && !no_flock;
  if (owner && !taken) {
    if (!same_host)
      taken = age_seconds(path) < kStaleAfterSeconds;
    else if (no_flock)
      taken = owner->pid != ::getpid() && (::kill(pid_t(owner->pid), 0) == 0 || errno == EPERM);
  }
  if (taken)
    fail(ExitCode::kCannotCreate, "CKPT-30", path, ": the run folder is in use by ",
         owner ? describe(*owner) : std::string("another process"),
         "; mend it by waiting for it, stopping it, or choosing another run_dir");
  if (owner && warn)
    warn(str(path.string(), ": taking over the lock of ", describe(*owner), ", which is gone"));

  const json text = {{"host", host_name()}, {"pid", int64_t(::getpid())}, {"since", utc_now()}};
  s.file.truncate(0);
  s.file.write(text.dump() + "\n");
  s.file.sync();
  s.owned = true;
  s.toucher = std::jthread([&s](const std::stop_token& stop) {
    std::unique_lock lock(s.mutex);
    while (!s.wake.wait_for(lock, stop, kTouchEvery, [] { return false; }) && !stop.stop_requested())
      ::futimens(s.fd, nullptr);
  });
}
RunLock::RunLock(RunLock&&) noexcept = default;
RunLock& RunLock::operator=(RunLock&&) noexcept = default;
RunLock::~RunLock() = default;

}  // namespace rookery::checkpoint
