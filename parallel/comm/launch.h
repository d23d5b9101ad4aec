// launch.h: what a launcher told this process in environment variables. Who acts on it: world.h; the list for
// users: docs/cluster.md.
#pragma once

#include <functional>
#include <string>

namespace rookery {

struct Launch {
  enum class Starter { kNone, kMpi, kTorchrun, kSlurm };
  Starter starter = Starter::kNone;
  std::string told_by;  // "OMPI_COMM_WORLD_SIZE=8", for messages
  int rank = 0, size = 1;
  int local_rank = -1, local_size = -1;  // among the ranks of this machine; -1: not told
  std::string address;                   // where rank 0 listens; empty: not told
  int port = 0;
};

// Of Open MPI, torchrun, MPICH and its kin, and Slurm, the first that is there. Errors: kUnavailable COMM-05
// (a variable that is no number, or out of range).
Launch read_launch(const std::function<const char*(const char* name)>& variable);
Launch read_launch();  // of this process

}  // namespace rookery
