// peak.h: what MFU and HFU are measured against (docs/logs.md).
#pragma once

#include <string_view>

namespace rookery::loop {

// Dense bf16 TFLOP/s by the data sheet of a GPU, by the name that CUDA has for it ("NVIDIA H200"), boost
// clock, no sparsity; 0: not in the table, and hardware.peak_tflops has to tell. Of a MIG slice ("NVIDIA H200
// MIG 1g.18gb") the share of its multiprocessors.
double known_peak_tflops(std::string_view gpu, int multiprocessors);

}  // namespace rookery::loop
