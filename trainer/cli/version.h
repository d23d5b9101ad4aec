// version.h: what this program is made of: `rookery --version`, and the libraries part of `rookery doctor`.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace rookery::cli {

// Name and version of the compiler and of each library that is linked, in a fixed order.
std::vector<std::pair<std::string, std::string>> component_versions();
// "avx2 fma avx512f ..": what this processor has of the instruction sets that the kernels can use.
std::string instruction_sets();
std::string program_version();  // "0.1.0"
std::string source_revision();  // git revision of the build, "unknown" outside a clone
std::string version_text();     // all of it, one line each

}  // namespace rookery::cli
