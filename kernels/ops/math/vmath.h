// vmath.h: exp, tanh, sigmoid and silu that a plain loop over them turns into vector code: no branch, no
// table, no call. Included by *_cpu.cpp files only, each of which is compiled once per instruction set
// (RK_BACKEND names the copy).
//
// float, over the whole range: exp and tanh within 1.5 ulp, sigmoid and silu within 3 ulp (a rounded sum and
// quotient on top), subnormal results included. NaN stays NaN; exp(-8100) = 0, exp(89) = inf.
//
// double: the functions of the C library, for checks, where speed does not matter.
//
// Method: Cody and Waite's reduction x = n ln2 + r, |r| <= ln2 / 2, then e^r = 1 + r + r^2 q(r) with q of
// degree 4 fitted for the least relative error (3.1e-9, Remez); tanh near zero by the polynomial of Cephes'
// tanhf.
#pragma once

#include <cstdint>

#ifndef RK_BACKEND
#error "vmath.h belongs to sources that are compiled per instruction set (rookery_cpu_kernels)"
#endif
#define RK_VMATH static inline __attribute__((always_inline))

namespace rookery::RK_BACKEND {

// exp(x) = mantissa * 2^power, for |x| < 2^22; a NaN stays in the mantissa.
struct ScaledExp {
  float mantissa;
  int32_t power;
};

RK_VMATH ScaledExp scaled_exp(float x) {
  constexpr float kRound = 12582912.f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  float shifted = x * 1.44269504f + kRound;
  float whole = shifted - kRound;
  float r = x - whole * 0.693359375f;  // the high part of ln2 has 9 bits, so this is exact
  r = r + whole * 2.12194440e-4f;
  float q = 1.3814598568e-3f;
  q = q * r + 8.3687168785e-3f;
  q = q * r + 4.1668388047e-2f;
  q = q * r + 1.6666520632e-1f;
  q = q * r + 4.9999993448e-1f;
  uint32_t power = __builtin_bit_cast(uint32_t, shifted) - __builtin_bit_cast(uint32_t, kRound);
  return {r * r * q + r + 1.f, int32_t(power)};
}

// 2^n, -126 <= n <= 127.
RK_VMATH float power_of_two(int32_t n) { return __builtin_bit_cast(float, (uint32_t(n) + 127u) << 23); }

// exp(x) = mantissa * scale1 * scale2. The power of two is in two halves, because 2^-149 is no normal float:
// the last product is then the only rounding of a subnormal result.
struct SplitExp {
  float mantissa, scale1, scale2;
};

// x in [-120, 89] or NaN.
RK_VMATH SplitExp split_exp(float x) {
  ScaledExp e = scaled_exp(x);
  int32_t half = e.power >> 1;
  return {e.mantissa, power_of_two(half), power_of_two(e.power - half)};
}

RK_VMATH float vexp(float x) {
  // e^89 is past the largest float, e^-104 below half of the smallest; a NaN passes both selections.
  x = x > 89.f ? 89.f : x;
  x = x < -104.f ? -104.f : x;
  SplitExp e = split_exp(x);
  return e.mantissa * e.scale1 * e.scale2;
}

RK_VMATH float vtanh(float x) {
  float a = __builtin_fabsf(x);
  float z = a * a;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  float near_zero = p * z * a + a;  // 1 - 2/(..) would cancel here
  float far = 1.f - 2.f / (vexp(2.f * a) + 1.f);
  return __builtin_copysignf(a < 0.625f ? near_zero : far, x);
}

// 1 / (1 + exp(-x)), written with exp(-|x|) so that nothing overflows and small results keep all their bits.
RK_VMATH float vsigmoid(float x) {
  float e = vexp(-__builtin_fabsf(x));
  return (x < 0.f ? e : 1.f) / (1.f + e);
}

// x * sigmoid(x). The power of two comes last: near x = -100 exp(x) has lost its low bits, the product has
// not.
RK_VMATH float vsilu(float x) {
  x = x < -120.f ? -120.f : x;  // the result is 0 from -109 on
  float a = __builtin_fabsf(x);
  SplitExp e = split_exp(a > 120.f ? -120.f : -a);
  float denominator = 1.f + e.mantissa * e.scale1 * e.scale2;
  return x < 0.f ? x * e.mantissa * e.scale1 / denominator * e.scale2 : x / denominator;
}

RK_VMATH double vexp(double x) { return __builtin_exp(x); }
RK_VMATH double vtanh(double x) { return __builtin_tanh(x); }
RK_VMATH double vsigmoid(double x) { return 1.0 / (1.0 + __builtin_exp(-x)); }
RK_VMATH double vsilu(double x) { return x / (1.0 + __builtin_exp(-x)); }

}  // namespace rookery::RK_BACKEND

#undef RK_VMATH
