// kernel_cases.h: small cases that between them launch every kernel of the program and come by every barrier
// of it (every_kernel_test.cpp sees to that). A new kernel needs a case in kernel_cases.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/tensor/dtype.h"

namespace rookery::test {

struct KernelCase {
  std::string name;
  std::function<bool()> passes;  // runs it; false where the result is wrong or not that of the first run
};

// With activations in `dtype`, kF32 or kBF16, and heads of `head` channels.
std::vector<KernelCase> kernel_cases(DType dtype, int64_t head = 12);
// Of the kernels that are templates of the size of heads.
std::vector<KernelCase> head_cases(DType dtype, int64_t head);

}  // namespace rookery::test
