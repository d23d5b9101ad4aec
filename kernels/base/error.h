// error.h: the one exception type of the project and the exit codes that it carries. Thrown anywhere, caught
// once, in trainer/main.cpp, which prints the message and returns the code.
#pragma once

#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>

#include "kernels/base/str.h"

namespace rookery {

// What the process returns; docs/exit-codes.md tells who should restart what.
enum class ExitCode : int {
  kOk = 0,
  kUsage = 64,         // bad command line
  kData = 65,          // bad content of a data set, vocabulary, checkpoint
  kNoInput = 66,       // input missing or unreadable
  kUnavailable = 69,   // a device or service is not there
  kInternal = 70,      // a bug
  kCannotCreate = 73,  // output cannot be created
  kIo = 74,            // read or write failed (disk full, permission)
  kStopped = 75,       // stopped on request with a valid checkpoint: start again
  kPeerFailed = 76,    // another rank failed
  kHang = 77,          // a wait outlasted its limit
  kConfig = 78,        // configuration error
  kNumerics = 79,      // non-finite loss beyond the policy
  kInterrupted = 130,  // Ctrl-C, after saving
};

class Error : public std::runtime_error {
 public:
  // `id` names the kind of error in the docs ("CKPT-104"); empty for internal errors.
  Error(ExitCode code, std::string id, const std::string& message,
        std::source_location where = std::source_location::current())
      : std::runtime_error(message), code_(code), id_(std::move(id)), where_(where) {}
  ExitCode code() const { return code_; }
  const std::string& id() const { return id_; }
  const std::source_location& where() const { return where_; }

 private:
  ExitCode code_;
  std::string id_;
  std::source_location where_;
};

// fail(ExitCode::kData, "DATA-03", path, ": holds ", n, " bytes, expected ", m): a user's mistake or a fault
// of the machine. The message says where (file, line or key), what was found, what was expected and how to
// mend it.
template <class... Args>
[[noreturn]] void fail(ExitCode code, std::string_view id, const Args&... args) {
  throw Error(code, std::string(id), str(args...));
}

// A broken contract between parts of the program: a bug (exit code 70). Never for user input.
#define RK_CHECK(condition, ...)                                                               \
  do {                                                                                         \
    if (!(condition)) [[unlikely]]                                                             \
      throw ::rookery::Error(::rookery::ExitCode::kInternal, "", ::rookery::str(__VA_ARGS__)); \
  } while (false)

}  // namespace rookery
