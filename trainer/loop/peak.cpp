// peak.cpp: data sheets of GPUs (trainer/loop/peak.h).
#include "trainer/loop/peak.h"

namespace rookery::loop {

double known_peak_tflops(std::string_view gpu) {
  struct Row {
    std::string_view part;  // of the name; the first that fits
    double tflops;
  };
  constexpr Row kRows[] = {
      {"GH200", 989}, {"H200 NVL", 835}, {"H200", 989}, {"H100 NVL", 835}, {"H100 PCIe", 756},
      {"H100", 989},  {"A100", 312},     {"A800", 312}, {"L40S", 362},
  };
  for (const Row& row : kRows)
    if (gpu.find(row.part) != std::string_view::npos) return row.tflops;
  return 0;
}

}  // namespace rookery::loop
