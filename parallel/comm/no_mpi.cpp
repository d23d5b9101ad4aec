// no_mpi.cpp: MPI in a build without it (parallel/comm/mpi.h).
#include "parallel/comm/mpi.h"

namespace rookery::mpi {

struct Session::State {};

bool built() { return false; }
std::string version() { return ""; }

Session::Session() {
  fail(ExitCode::kUnavailable, "COMM-09",
       "several ranks: this program was built without MPI, expected MPI for ranks on the CPU; install "
       "libopenmpi-dev and build again with -DROOKERY_MPI=ON");
}
Session::~Session() = default;
int Session::rank() const { return 0; }
int Session::size() const { return 1; }
int Session::local_rank() const { return 0; }
int Session::local_size() const { return 1; }
std::unique_ptr<Communicator> Session::communicator(std::shared_ptr<Watch>) { return self_communicator(); }
void Session::native(Collective, const Tensor&, const Tensor&) const {}
void Session::finish() {}

}  // namespace rookery::mpi
