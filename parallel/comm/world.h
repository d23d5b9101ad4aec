// world.h: start-up and shut-down of many ranks: who they are (launch.h), that they fit together and stay
// alive (lifeline.h), and the communicator between them (mpi.h). One process alone is a world of one rank.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/launch.h"
#include "parallel/comm/lifeline.h"
#include "parallel/comm/mpi.h"
#include "parallel/comm/watch.h"

namespace rookery {

class World {
 public:
  struct Options {
    Watch::Options waits;
    std::chrono::milliseconds start_limit = std::chrono::minutes(5);  // until all ranks are there
    std::chrono::milliseconds leave_limit =
        std::chrono::seconds(20);      // after a failure, until the process ends
    std::string version, fingerprint;  // of the program and of the configuration; equal on all ranks
    std::string payload;               // of rank 0, for all
    // Chooses a GPU by the place among the ranks of this machine and returns a name that no other has. Null
    // on the CPU.
    std::function<std::string(int local_rank)> use_gpu;
  };
  // What ROOKERY_COMM_TIMEOUT, ROOKERY_COMM_START_LIMIT (seconds) and ROOKERY_COMM_VERIFY (0 or 1) say, else
  // the defaults. Errors: kUsage COMM-10.
  static Options from_environment();

  // Returns when all ranks are there. Errors: COMM-04 to COMM-09 (lifeline.h, launch.h, mpi.h), and what
  // use_gpu throws, of which the others get to know.
  explicit World(Options options, const Launch& launch = read_launch());
  // Without finish() it leaves as after an error: the others are told, and nobody is waited for.
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  int rank() const { return watch_->rank(); }
  int size() const { return watch_->size(); }
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }
  const std::string& host(int rank) const { return hosts_[static_cast<size_t>(rank)]; }
  const std::string& payload() const { return payload_; }
  const std::shared_ptr<Watch>& watch() const { return watch_; }

  // Of all ranks, on host memory. Errors: kUnavailable COMM-09 (the ranks were not started by MPI).
  Communicator& communicator();

  // body(), then finish(). What it throws is told to the other ranks and thrown here.
  void run(const std::function<void()>& body);
  // Waits for all ranks; nothing can be called on the world afterwards.
  void finish();

 private:
  void start(const Launch& launch, Options& options);
  std::shared_ptr<Watch> watch_;
  std::vector<std::string> hosts_;
  std::string payload_, told_by_;
  int local_rank_ = 0, local_size_ = 1;
  bool finished_ = false;
  std::unique_ptr<mpi::Session> session_;
  std::unique_ptr<Lifeline> lifeline_;
  std::unique_ptr<Communicator> communicator_;
};

}  // namespace rookery
