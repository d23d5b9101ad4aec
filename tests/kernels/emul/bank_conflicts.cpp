// bank_conflicts.cpp: a program that prints, as Markdown, the bank conflicts of every kernel that uses shared
// memory, on the cases of kernel_cases.cpp with heads of the usual size. scripts/kernel_tables runs it.
#include "kernels/emul/banks.h"

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "kernels/base/str.h"
#include "kernels/emul/report.h"
#include "tests/kernels/emul/kernel_cases.h"

namespace rookery {
namespace {

using emulator::BankConflicts;
using emulator::Place;

void add(BankConflicts& to, const BankConflicts& from) {
  to.requests += from.requests;
  to.least += from.least;
  to.steps += from.steps;
  to.worst = std::max(to.worst, from.worst);
}

std::string row(const std::string& what, const BankConflicts& c) {
  char numbers[64];
  std::snprintf(numbers, sizeof numbers, "%.2f | %.1f",
                static_cast<double>(c.steps) / static_cast<double>(c.least), c.worst);
  return str("| ", what, " | ", c.requests, " | ", numbers, " |\n");
}

// The end of the path: "norm_cuda.cu".
std::string file_of(const Place& place) { return place.file.substr(place.file.rfind('/') + 1); }

struct Kernel {
  BankConflicts all;
  std::map<std::pair<std::string, int>, BankConflicts> lines;  // by file and line
};

// By name: "wkv6_cuda.cu: forward_kernel".
std::map<std::string, Kernel> count(DType dtype) {
  constexpr int64_t kHead = 64;
  std::map<std::string, Kernel> kernels;
  for (const test::KernelCase& c : test::kernel_cases(dtype, kHead)) {
    const emulator::BankReport report = emulator::bank_conflicts([&] { c.passes(); });
    std::vector<uintptr_t> addresses;
    for (const auto& [key, conflicts] : report) {
      addresses.push_back(reinterpret_cast<uintptr_t>(key.first));
      addresses.push_back(key.second - 1);  // of the call, not of what follows it
    }
    const std::vector<Place> places = emulator::places(addresses);
    size_t i = 0;
    for (const auto& [key, conflicts] : report) {
      const Place &kernel = places[i++], &line = places[i++];
      Kernel& k = kernels[file_of(kernel) + ": " + kernel.function];
      add(k.all, conflicts);
      add(k.lines[{file_of(line), line.line}], conflicts);
    }
  }
  return kernels;
}

}  // namespace
}  // namespace rookery

int main() {
  using namespace rookery;
  std::cout << "| kernel and line | requests | steps for each 128 bytes | most |\n|---|---|---|---|\n";
  for (const auto& [name, kernel] : count(DType::kBF16)) {
    std::cout << row("**" + name + "**", kernel.all);
    for (const auto& [place, conflicts] : kernel.lines)
      if (conflicts.steps > conflicts.least) std::cout << row(str(place.first, ":", place.second), conflicts);
  }
}
