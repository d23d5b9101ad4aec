// lifeline.h: a connection of every rank to rank 0, beside whatever carries the tensors: who is there, who is
// alive and where, and why it ends. World (world.h) makes it.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/watch.h"

namespace rookery {

// A process as it introduces itself.
struct Member {
  int rank = 0, size = 1;
  std::string host;
  int64_t pid = 0;
  std::string gpu;          // of the one it uses, by a name that no other has; empty: none
  std::string version;      // of the program and its libraries
  std::string fingerprint;  // of the configuration
  std::string failure;      // why it cannot take part; empty: it can
};
std::string name_of(const Member& member);  // "rank 3 on node7 (process 4711)"

// Throws what is wrong with a world of these, COMM-05, COMM-06, COMM-08 or COMM-03; at its end all have come.
void check_members(const std::vector<Member>& members);

// Where rank 0 listens.
class Listener {
 public:
  // port 0: any. Waits for a port that is in use. Errors: kUnavailable COMM-07 (host, port and errno).
  Listener(bool this_machine_alone, int port, std::chrono::milliseconds patience);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  int port() const { return port_; }
  int fd() const { return fd_; }
  // Addresses of this machine that others may reach, or 127.0.0.1.
  std::vector<std::string> addresses() const;

 private:
  int fd_ = -1, port_ = 0;
  bool this_machine_alone_;
};

class Lifeline {
 public:
  struct Options {
    Member self;
    std::vector<std::string> addresses;  // of rank 0
    int port = 0;
    std::string token;    // equal for all ranks of one job, and for no other job
    std::string payload;  // of rank 0, for all
    std::chrono::milliseconds start_limit{60'000};
    std::chrono::milliseconds leave_limit{20'000};  // from an alarm to the end of this process by force
  };
  // Returns when all ranks are there and fit together. `listener`: of rank 0, null elsewhere. Errors: COMM-04
  // kHang (ranks that did not come), COMM-07 kUnavailable (rank 0 cannot be reached), those of check_members.
  explicit Lifeline(Options options, std::unique_ptr<Listener> listener);
  // Without finish() the others are told that this rank is gone. Waits for nobody.
  ~Lifeline();
  Lifeline(const Lifeline&) = delete;
  Lifeline& operator=(const Lifeline&) = delete;

  const std::vector<std::string>& hosts() const;  // of each rank
  const std::string& payload() const;             // what rank 0 gave
  // From now on: alarms are raised there, its aborts are told to the others, heartbeats carry where it is.
  void guard(std::shared_ptr<Watch> watch);
  // Until all ranks call it: after this nobody misses anybody. Throws what the watch raises, and COMM-01 at
  // its time limit.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace rookery
