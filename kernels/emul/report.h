// report.h: words of fault reports: sets of threads, source lines of addresses.
#pragma once

#include <string>
#include <vector>

namespace rookery::emulator {

// "0-31, 64" of ascending numbers.
std::string ranges(const std::vector<int>& numbers);

}  // namespace rookery::emulator
