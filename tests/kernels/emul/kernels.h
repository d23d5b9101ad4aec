// kernels.h: small kernels that the tests of the emulator run. Bodies: *_cuda.cu, as in kernels/ops.
#pragma once

#include <cstdint>

#include "kernels/tensor/device.h"

namespace rookery::emul {

// out[row] = sum of in[row][0 .. columns), a block of `threads` (a multiple of 32) per row.
void row_sum(const Device& device, const float* in, float* out, int64_t rows, int64_t columns, int threads);

}  // namespace rookery::emul
