// ranks.h: tests of what several ranks do together, written once for ranks of every kind.
#pragma once

#include <functional>

#include "parallel/comm/communicator.h"

namespace rookery::test {

// Runs `body` on n ranks, each with a device of one thread. Where there are fewer ranks than n it does
// nothing; of more, the first n take part. Defined by each program: on threads in tests/parallel, on
// processes in tests/dist.
void on_ranks(int n, const std::function<void(Communicator&, Device&)>& body);

}  // namespace rookery::test
