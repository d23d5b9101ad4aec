// signals.h: the ways to ask a run to stop or to save: signals, files in the run folder, a time budget.
// The loop asks RunControl once after each step; nothing here interrupts a step.
#pragma once

#include <functional>
#include <string>

#include "kernels/base/error.h"
#include "kernels/base/io.h"
#include "trainer/loop/human.h"

namespace rookery::loop {

// While it lives: SIGTERM, SIGUSR1 and SIGINT are noted; a second one leaves at once with 128 + its number,
// by _exit. SIGHUP is ignored, or for an interactive run noted as a request to stop. SIGPIPE is ignored: a
// closed pipe is an error of write(), not an end. One at a time in a process; its destructor puts the
// handlers back that were there before.
class SignalGuard {
 public:
  explicit SignalGuard(bool interactive);  // is standard input a terminal?
  ~SignalGuard();
  SignalGuard(const SignalGuard&) = delete;

  // The first signal that asked to stop, or 0.
  int received() const;
};

struct RunRequest {
  bool save = false;                   // save now and go on
  bool stop = false;                   // save and leave with `code`
  ExitCode code = ExitCode::kStopped;  // kInterrupted after SIGINT
  std::string reason;                  // "SIGTERM", "RUN/STOP", "max-time 3h55m"; for the log
};

class RunControl {
 public:
  using Clock = std::function<double()>;  // seconds, never going back

  // run_dir empty: another rank looks for the files. `max_seconds` counts from here; 0: no limit. The clock
  // is for tests.
  RunControl(io::fs::path run_dir, const SignalGuard& signals, double max_seconds, Clock clock = steady_now);

  // What is asked for now. `step_s` and `save_s` are the longest step and save so far: the time limit is met
  // if a further step and a save of up to twice these lengths may not fit. RUN/SAVE and RUN/STOP are removed
  // when they are obeyed; one that cannot be removed is obeyed once.
  RunRequest poll(double step_s, double save_s);

 private:
  struct Switch {
    io::fs::path path;
    bool stuck = false;  // obeyed, but still there
    bool taken();
  };

  const SignalGuard& signals_;
  Switch save_, stop_;
  double max_seconds_, start_;
  Clock clock_;
};

}  // namespace rookery::loop
