// no_nccl.cpp: NCCL in a build without it (parallel/comm/nccl.h).
#include "parallel/comm/nccl.h"

namespace rookery::nccl {
namespace {

[[noreturn]] void refuse() {
  fail(ExitCode::kUnavailable, "COMM-09",
       "several ranks with GPUs: this program was built without NCCL, expected nccl.h of the CUDA toolkit; "
       "install it and build again with -DROOKERY_NCCL=ON");
}

}  // namespace

bool built() { return false; }
std::string version() { refuse(); }
std::string unique_id() { refuse(); }
std::unique_ptr<Communicator> communicator(Device&, const std::string&, std::shared_ptr<Watch>) { refuse(); }

}  // namespace rookery::nccl
