// vmath_arrays.h: declares what vmath_arrays_cpu.cpp defines in each instruction set's namespace.
#pragma once

#include <cstdint>

#define RK_VMATH_ARRAYS(isa)                               \
  namespace rookery::isa {                                 \
  void exp_array(const float* x, float* y, int64_t n);     \
  void tanh_array(const float* x, float* y, int64_t n);    \
  void sigmoid_array(const float* x, float* y, int64_t n); \
  void silu_array(const float* x, float* y, int64_t n);    \
  }
RK_VMATH_ARRAYS(cpu_portable)
#ifdef __x86_64__
RK_VMATH_ARRAYS(cpu_avx2)
RK_VMATH_ARRAYS(cpu_avx512)
#endif
#undef RK_VMATH_ARRAYS
