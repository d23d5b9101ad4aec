// report.h: words of fault reports: sets of threads, source lines of addresses.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rookery::emulator {

// "0-31, 64" of ascending numbers.
std::string ranges(const std::vector<int>& numbers);

// The source line of a return address in this program, with the lines that it was inlined to: "a.cu:12
// (inlined in b.cu:40)". Asks addr2line; where that is not to be had, the address in the program's file.
std::string source_line(uintptr_t return_address);

}  // namespace rookery::emulator
