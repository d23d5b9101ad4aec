// report.h: words of fault reports: sets of threads, source lines of addresses.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rookery::emulator {

// "0-31, 64" of ascending numbers.
std::string ranges(const std::vector<int>& numbers);

// The source line of a return address in this program, with the lines that it was inlined to: "a.cu:12
// (inlined at b.cu:40)". Asks addr2line; where that is not to be had, or Options::source_lines is off, the
// address in the program's file.
std::string source_line(uintptr_t return_address);

// Where the code at an address of this program stands: {"/src/a.cu", 12, "my_kernel", "my_kernel<16>"}, names
// without namespaces and parameters; of what is inlined from portable.h the place that calls it. Of a return
// address ask for the byte before. Empty where addr2line has no answer.
struct Place {
  std::string file;
  int line = 0;
  std::string function, instance;
};
std::vector<Place> places(const std::vector<uintptr_t>& addresses);

}  // namespace rookery::emulator
