// threads.h: ranks as threads of one process, for tests and for several small models on one machine. Each
// rank makes its own Device. Rendezvous and work: threads.cpp.
#pragma once

#include <chrono>
#include <functional>

#include "parallel/comm/watch.h"

namespace rookery {

// Runs body on `size` threads, each with its rank's communicator, and waits for all. The first exception of
// a rank aborts the others and is rethrown here.
void run_ranks(int size, const std::function<void(Communicator&)>& body,
               std::chrono::milliseconds timeout = kCommTimeout);

}  // namespace rookery
