// process.h: for tests of what survives a killed process: a temporary folder, and the running of this test
// program again with a fault (ROOKERY_FAULT) set.
#pragma once

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace rookery::test {

namespace fs = std::filesystem;

class TempDir {
 public:
  // In memory: for tests of many small saves, whose time would go into fsync. A killed process leaves the
  // same there.
  enum class Place { kDisk, kMemory };
  explicit TempDir(Place place = Place::kDisk) {
    const bool memory = place == Place::kMemory && ::access("/dev/shm", W_OK | X_OK) == 0;
    std::string name =
        ((memory ? "/dev/shm" : fs::temp_directory_path()) / fs::path("rookery-test-XXXXXX")).string();
    if (!::mkdtemp(name.data())) throw std::runtime_error("mkdtemp failed for " + name);
    path_ = name;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ec;
    fs::remove_all(path_, ec);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

struct Outcome {
  int exit_code = -1;  // -1 where a signal ended it
  int signal = 0;
};

using Environment = std::vector<std::pair<std::string, std::string>>;

// Starts a program with additional environment variables and its output thrown away; returns its process id.
inline pid_t start(const std::vector<std::string>& command, const Environment& environment) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  for (const auto& [key, value] : environment) ::setenv(key.c_str(), value.c_str(), 1);
  if (!std::freopen("/dev/null", "w", stdout) || !std::freopen("/dev/null", "w", stderr)) ::_exit(126);
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

inline Outcome wait_for(pid_t pid) {
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (WIFSIGNALED(status)) return {-1, WTERMSIG(status)};
  return {WEXITSTATUS(status), 0};
}

// Runs one TEST of this same program in a process of its own.
inline Outcome run_test_again(const std::string& name, const Environment& environment) {
  return wait_for(
      start({fs::read_symlink("/proc/self/exe").string(), "--gtest_filter=" + name}, environment));
}

}  // namespace rookery::test
