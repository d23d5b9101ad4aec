// peak.cpp: data sheets of GPUs (trainer/loop/peak.h).
#include "trainer/loop/peak.h"

#include <algorithm>

namespace rookery::loop {

double known_peak_tflops(std::string_view gpu, int multiprocessors) {
  struct Row {
    std::string_view part;  // of the name; the first that fits
    double tflops;
    int multiprocessors;  // of the whole GPU
  };
  constexpr Row kRows[] = {
      {"GH200", 989, 132},    {"H200 NVL", 835, 132},  {"H200", 989, 132},
      {"H100 NVL", 835, 132}, {"H100 PCIe", 756, 114}, {"H100", 989, 132},
      {"A100", 312, 108},     {"A800", 312, 108},      {"L40S", 362, 142},
  };
  for (const Row& row : kRows)
    if (gpu.find(row.part) != std::string_view::npos)
      return row.tflops * std::min(1.0, static_cast<double>(multiprocessors) / row.multiprocessors);
  return 0;
}

}  // namespace rookery::loop
