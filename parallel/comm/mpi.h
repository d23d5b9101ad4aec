// mpi.h: ranks as processes, by MPI on host memory. World (world.h) makes the session; in a build without MPI
// (no_mpi.cpp) there is none, and the errors say so.
#pragma once

#include <memory>
#include <string>

#include "parallel/comm/watch.h"

namespace rookery::mpi {

bool built();           // is there MPI in this build?
std::string version();  // "Open MPI v4.1.4, .."; empty without

// MPI in this process; one at a time, and none after it. Errors: kUnavailable COMM-05 (MPI cannot serve
// several threads), COMM-09 (not in this build).
class Session {
 public:
  Session();
  // Leaves MPI as it is unless finish() was called: the end of MPI waits for all ranks.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  int rank() const;
  int size() const;
  int local_rank() const;  // among the ranks of this machine
  int local_size() const;
  // All ranks. Messages between two ranks keep their order within a communicator; communicators do not
  // disturb each other, also on several threads. split() is for one thread at a time.
  std::unique_ptr<Communicator> communicator(std::shared_ptr<Watch> watch);
  // By one call of MPI's own: all_reduce of `in`, reduce_scatter (sum) or all_gather from `in` to `out`, of
  // float32. To compare with.
  void native(Collective kind, const Tensor& in, const Tensor& out) const;
  // Once all communicators are gone and no alarm was raised.
  void finish();

  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace rookery::mpi
