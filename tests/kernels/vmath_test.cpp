// vmath_test.cpp: the vector functions of vmath.h against the C library in double, in every instruction set
// that the processor has, over a grid that covers all floats (each exponent, both signs, subnormals,
// infinities).
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tests/kernels/vmath_arrays.h"

namespace rookery {
namespace {

using ArrayFunction = void (*)(const float*, float*, int64_t);
struct Isa {
  const char* name;
  bool present;
  ArrayFunction exp, tanh, sigmoid, silu;
};

std::vector<Isa> present_isas() {
  std::vector<Isa> all;
#define RK_ISA(isa, has) \
  all.push_back({#isa, has, isa::exp_array, isa::tanh_array, isa::sigmoid_array, isa::silu_array})
  RK_ISA(cpu_portable, true);
#ifdef __x86_64__
  RK_ISA(cpu_avx2, __builtin_cpu_supports("x86-64-v3") != 0);
  RK_ISA(cpu_avx512, __builtin_cpu_supports("x86-64-v4") != 0);
#endif
#undef RK_ISA
  std::erase_if(all, [](const Isa& isa) { return !isa.present; });
  return all;
}

// Every 1021st float by bit pattern (1021 is prime, so all exponents and mixed mantissas occur), and the
// dense middle.
std::vector<float> grid() {
  std::vector<float> x;
  for (uint64_t bits = 0; bits < (uint64_t(1) << 32); bits += 1021) {
    float f = std::bit_cast<float>(uint32_t(bits));
    if (!std::isnan(f)) x.push_back(f);
  }
  for (int i = -1'200'000; i <= 1'200'000; ++i) x.push_back(float(i) * 1e-4f);
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (float f : {0.f, -0.f, kInf, -kInf, 88.72283f, 88.72284f, -103.97f, -103.98f, -8100.f, 0.625f, -0.625f})
    x.push_back(f);
  return x;
}

// |found - expected| in units of the float spacing at `expected`, which is 2^-149 among the subnormals.
double ulp_error(float found, double expected) {
  float rounded = float(expected);
  if (rounded == found) return 0;
  if (std::isinf(rounded) || !std::isfinite(found)) return std::numeric_limits<double>::infinity();
  int exponent = std::max(std::ilogb(expected), -126);
  return std::abs(double(found) - expected) / std::ldexp(1.0, exponent - 23);
}

void check(const char* what, double bound, ArrayFunction Isa::*function, double (*reference)(double)) {
  std::vector<float> x = grid(), y(x.size());
  for (const Isa& isa : present_isas()) {
    (isa.*function)(x.data(), y.data(), int64_t(x.size()));
    double worst = 0;
    float worst_at = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      double error = ulp_error(y[i], reference(double(x[i])));
      if (!(error <= worst)) worst = error, worst_at = x[i];
    }
    EXPECT_LE(worst, bound) << what << " in " << isa.name << ", worst at x = " << worst_at;
    ::testing::Test::RecordProperty(std::string(what) + "_" + isa.name + "_ulp", std::to_string(worst));
    std::vector<float> nan(37, std::numeric_limits<float>::quiet_NaN()), out(37, 1.f);
    (isa.*function)(nan.data(), out.data(), 37);
    for (float f : out) EXPECT_TRUE(std::isnan(f)) << what << "(NaN) in " << isa.name;
  }
}

TEST(Vmath, Exp) {
  check("exp", 1.5, &Isa::exp, [](double x) { return std::exp(x); });
}

TEST(Vmath, Tanh) {
  check("tanh", 1.5, &Isa::tanh, [](double x) { return std::tanh(x); });
}

TEST(Vmath, Sigmoid) {
  check("sigmoid", 3, &Isa::sigmoid,
        [](double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); });
}

TEST(Vmath, Silu) {
  // -inf is taken by its limit, 0.
  check("silu", 3, &Isa::silu, [](double x) {
    if (x < -700) return -0.0;
    return x < 0 ? x * std::exp(x) / (1 + std::exp(x)) : x / (1 + std::exp(-x));
  });
}

TEST(Vmath, ExpReachesZeroAndInfinity) {
  for (const Isa& isa : present_isas()) {
    float x[4] = {-8100.f, -104.f, 89.f, 3e38f}, y[4];
    isa.exp(x, y, 4);
    EXPECT_EQ(y[0], 0.f) << isa.name;
    EXPECT_EQ(y[1], 0.f) << isa.name;
    EXPECT_TRUE(std::isinf(y[2]) && std::isinf(y[3])) << isa.name;
  }
}

}  // namespace
}  // namespace rookery
