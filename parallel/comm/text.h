// text.h: short texts between ranks: names, reports, what went wrong.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "parallel/comm/communicator.h"

namespace rookery {

// The text of each rank, on all of them. Each needs memory for all, padded to the longest.
std::vector<std::string> exchange_texts(Communicator& comm, std::string_view mine);
// That of rank `root`, on all.
std::string broadcast_text(Communicator& comm, std::string_view text, int root = 0);

}  // namespace rookery
