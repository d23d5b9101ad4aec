// signals.cpp: see signals.h. The handler does only what POSIX allows in one: it sets a flag or calls _exit.
#include "trainer/loop/signals.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <system_error>

namespace rookery::loop {
namespace {

constexpr std::array kHandled = {SIGTERM, SIGUSR1, SIGINT, SIGHUP, SIGPIPE};

// Signals belong to the process, so what they leave behind does too.
volatile sig_atomic_t g_received = 0;
std::array<struct sigaction, kHandled.size()> g_before;

void on_signal(int number) {
  if (g_received != 0) _exit(128 + number);
  g_received = number;
}

std::string signal_name(int number) {
  switch (number) {
    case SIGTERM:
      return "SIGTERM";
    case SIGUSR1:
      return "SIGUSR1";
    case SIGINT:
      return "SIGINT";
    case SIGHUP:
      return "SIGHUP";
    default:
      return str("signal ", number);
  }
}

}  // namespace

SignalGuard::SignalGuard(bool interactive) {
  g_received = 0;
  for (size_t i = 0; i < kHandled.size(); ++i) {
    const int number = kHandled[i];
    struct sigaction action {};
    action.sa_handler = number == SIGPIPE || (number == SIGHUP && !interactive) ? SIG_IGN : on_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    for (const int other : kHandled)
      sigaddset(&action.sa_mask, other);  // the flag is read and set undisturbed
    sigaction(number, &action, &g_before[i]);
  }
}

SignalGuard::~SignalGuard() {
  for (size_t i = 0; i < kHandled.size(); ++i) sigaction(kHandled[i], &g_before[i], nullptr);
}

int SignalGuard::received() const { return g_received; }

RunControl::RunControl(io::fs::path run_dir, const SignalGuard& signals, double max_seconds, Clock clock)
    : signals_(signals),
      save_{run_dir.empty() ? run_dir : run_dir / "SAVE"},
      stop_{run_dir.empty() ? run_dir : run_dir / "STOP"},
      max_seconds_(max_seconds),
      clock_(std::move(clock)) {
  start_ = clock_();
}

bool RunControl::Switch::taken() {
  if (path.empty()) return false;
  std::error_code error;
  if (!io::fs::exists(io::fs::symlink_status(path, error))) {
    stuck = false;
    return false;
  }
  if (stuck) return false;
  try {
    io::remove(path, "run.control");
  } catch (const Error&) {
    stuck = true;
  }
  return true;
}

RunRequest RunControl::poll(double step_s, double save_s) {
  RunRequest request;
  if (save_.taken()) {
    request.save = true;
    request.reason = "RUN/SAVE";
  }
  const auto stop = [&](std::string reason, ExitCode code) {
    request.save = request.stop = true;
    request.reason = std::move(reason);
    request.code = code;
  };
  if (max_seconds_ > 0 && clock_() - start_ + 2 * (step_s + save_s) >= max_seconds_)
    stop(str("max-time ", human_duration(max_seconds_)), ExitCode::kStopped);
  if (stop_.taken()) stop("RUN/STOP", ExitCode::kStopped);
  if (const int number = signals_.received())
    stop(signal_name(number), number == SIGINT ? ExitCode::kInterrupted : ExitCode::kStopped);
  return request;
}

}  // namespace rookery::loop
