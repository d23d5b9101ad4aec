// nccl.h: ranks with a GPU each, by NCCL. The library is loaded when it is asked for; in a build without it
// (no_nccl.cpp) the errors say so.
#pragma once

#include <memory>
#include <string>

#include "kernels/tensor/device.h"
#include "parallel/comm/watch.h"

namespace rookery::nccl {

bool built();           // was NCCL there when this program was built?
std::string version();  // of the library as found: "2.28.9". Throws kUnavailable COMM-09 where there is none

// By which ranks find each other: made by rank 0 and handed to all (World::Options::payload).
std::string unique_id();

// All ranks of the world, on the memory of `device`, a GPU. Calls go to the stream that the device works on,
// so inside a CommStream to its second one, and return before the work is done. What a dead or late rank
// holds up is ended by a thread that looks after all communicators: it aborts them when an alarm is raised,
// when NCCL reports an error, and when a call is not done within the time limit; the next call throws then.
// Sums are in NCCL's order: they repeat on the same machines where NCCL_ALGO is set, and differ from those on
// the CPU by rounding. A NaN may lose against a number in max and min. send() cannot be captured. Errors:
// kUnavailable COMM-09, kPeerFailed COMM-03, kHang COMM-01.
std::unique_ptr<Communicator> communicator(Device& device, const std::string& unique_id,
                                           std::shared_ptr<Watch> watch);

}  // namespace rookery::nccl
