// bias.h: rows of a matrix filled with one, and the sum of its rows: the bias of a linear layer and its
// gradient. Bodies: bias_cpu.cpp, bias_cuda.cu.
#pragma once

#include <algorithm>

#include "kernels/autograd/autograd.h"
#include "kernels/ops/backend.h"

namespace rookery {

struct FillRowsArgs {  // rows[m, :] = row
  Tensor row, rows;    // N elements; [M, N]
};
struct SumRowsArgs {  // sum (+)= the sum over m of rows[m, :], in the order of m within a part
  Tensor rows;        // [M, N]
  GradTarget sum;     // N elements
  Tensor parts;       // f32 scratch [sum_rows_parts(M), N]; kernels for the GPU only
};
// Into how many parts the rows are split on a GPU: enough blocks for all of it, with 32 rows each at least.
inline int64_t sum_rows_parts(int64_t M) { return std::clamp<int64_t>(M / 32, 1, 128); }

RK_BACKENDS_GPU(void fill_rows(const FillRowsArgs&))
RK_BACKENDS_GPU(void sum_rows(const SumRowsArgs&))

}  // namespace rookery
