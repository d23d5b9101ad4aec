// vmath_arrays_cpu.cpp: the functions of vmath.h applied to arrays, one copy per instruction set, for
// vmath_test.cpp.
#include "tests/kernels/vmath_arrays.h"

#include "kernels/ops/math/vmath.h"

namespace rookery::RK_BACKEND {

void exp_array(const float* x, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = vexp(x[i]);
}

void tanh_array(const float* x, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = vtanh(x[i]);
}

void sigmoid_array(const float* x, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = vsigmoid(x[i]);
}

void silu_array(const float* x, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = vsilu(x[i]);
}

}  // namespace rookery::RK_BACKEND
