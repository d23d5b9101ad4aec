// matmul_test.cpp: products with weights in both storage orders, and the split over threads.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/ops/matmul/gemm.h"
#include "kernels/ops/matmul/matmul.h"
#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

// y[m, n] = sum_k x[m, k] w(k, n) + bias[n]
Values product(const Values& x, const Values& w, bool w_out_in, const Values* bias, int64_t M, int64_t N,
               int64_t K) {
  Values y(static_cast<size_t>(M * N));
  for (int64_t m = 0; m < M; ++m)
    for (int64_t n = 0; n < N; ++n) {
      double sum = bias ? (*bias)[n] : 0;
      for (int64_t k = 0; k < K; ++k) sum += x[m * K + k] * (w_out_in ? w[n * K + k] : w[k * N + n]);
      y[m * N + n] = sum;
    }
  return y;
}

// B, T, K, N
const std::vector<std::array<int64_t, 4>> kSizes = {{1, 1, 1, 1},  {1, 3, 65, 1},   {2, 1, 1, 17},
                                                    {3, 5, 7, 33}, {2, 33, 40, 65}, {1, 70, 65, 48}};

TEST(Matmul, Linear) {
  for (const auto& [B, T, K, N] : kSizes)
    for (const bool biased : {false, true}) {
      OpCase c(str("linear B", B, " T", T, " K", K, " N", N, biased ? " biased" : ""));
      c.input("x", {B, T, K}, {-1, 1});
      c.input("w", {N, K}, {-1, 1});
      if (biased) c.input("bias", {N}, {-1, 1});
      c.bits_depend_on_threads = true;  // BLAS blocks each thread's part on its own
      c.run = [biased = biased](const Named<Var>& in) {
        return std::vector{ops::linear(in["x"], in["w"], biased ? in["bias"] : Var())};
      };
      c.reference = [M = B * T, K = K, N = N, biased = biased](const Named<Values>& in) {
        return Outputs{product(in["x"], in["w"], true, biased ? &in["bias"] : nullptr, M, N, K)};
      };
      c.check();
    }
}

TEST(Matmul, WithBias) {
  for (const auto& [B, T, K, N] : kSizes) {
    OpCase c(str("matmul B", B, " T", T, " K", K, " N", N));
    c.input("x", {B, T, K}, {-1, 1});
    c.input("a", {K, N}, {-1, 1});
    c.input("bias", {1, 1, N}, {-1, 1});
    c.bits_depend_on_threads = true;
    c.run = [](const Named<Var>& in) { return std::vector{ops::matmul(in["x"], in["a"], in["bias"])}; };
    c.reference = [M = B * T, K = K, N = N](const Named<Values>& in) {
      return Outputs{product(in["x"], in["a"], false, &in["bias"], M, N, K)};
    };
    c.check();
  }
}

TEST(Matmul, WithoutBias) {
  OpCase c("matmul without bias");
  c.input("x", {9, 31}, {-1, 1});
  c.input("a", {31, 5}, {-1, 1});
  c.bits_depend_on_threads = true;
  c.run = [](const Named<Var>& in) { return std::vector{ops::matmul(in["x"], in["a"])}; };
  c.reference = [](const Named<Values>& in) {
    return Outputs{product(in["x"], in["a"], false, nullptr, 9, 5, 31)};
  };
  c.check();
}

// Every transposition, both ways to split, with a row stride larger than the row, beta 0 on NaN and beta 1.
TEST(Matmul, GemmOnAnyStrides) {
  for (const int threads : {1, 2, 3, 7}) {
    Device device(DeviceType::kCpu, threads);
    for (const auto& [m, n, k] :
         std::vector<std::array<int64_t, 3>>{{1, 1, 1}, {129, 33, 47}, {33, 257, 65}, {300, 1, 500}})
      for (const bool ta : {false, true})
        for (const bool tb : {false, true})
          for (const double beta : {0.0, 1.0}) {
            SCOPED_TRACE(
                str(m, "x", n, "x", k, " ta ", ta, " tb ", tb, " beta ", beta, " threads ", threads));
            const int64_t lda = (ta ? m : k) + 3, ldb = (tb ? k : n) + 5, ldc = n + 2;
            const Values a = random_values("a", (ta ? k : m) * lda, {-1, 1}),
                         b = random_values("b", (tb ? n : k) * ldb, {-1, 1}),
                         c0 = random_values("c", m * ldc, {-1, 1});
            Values c = c0;
            for (int64_t i = 0; i < m && beta == 0; ++i)
              for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = NAN;
            parallel_gemm(device, m, n, k, Operand<double>{a.data(), lda, ta},
                          Operand<double>{b.data(), ldb, tb}, beta, c.data(), ldc);
            Values expected = c0;
            for (int64_t i = 0; i < m; ++i)
              for (int64_t j = 0; j < n; ++j) {
                double sum = beta == 0 ? 0 : c0[i * ldc + j];
                for (int64_t l = 0; l < k; ++l)
                  sum += (ta ? a[l * lda + i] : a[i * lda + l]) * (tb ? b[j * ldb + l] : b[l * ldb + j]);
                expected[i * ldc + j] = sum;
              }
            EXPECT_LE(nmse(c, expected), 1e-28);
            for (int64_t i = 0; i < m; ++i)
              for (int64_t j = n; j < ldc; ++j)
                EXPECT_EQ(c[i * ldc + j], c0[i * ldc + j]) << "written past a row";
          }
  }
}

// x rounded to bf16 in double arithmetic: 8 significant bits, ties to even.
double to_bf16(double x) {
  if (x == 0) return 0;
  const double unit = std::exp2(std::floor(std::log2(std::abs(x))) - 7);
  return std::nearbyint(x / unit) * unit;
}

class Bf16Matmul : public testing::Test {
 protected:
  void SetUp() override {
    if (!bf16_matmul_available()) GTEST_SKIP() << "no bf16 products on this processor or in this build";
  }
};

// Against fp64 on the rounded operands: sums in float stay within 1e-6, while rounding in another way or not
// at all shows at 1e-3.
TEST_F(Bf16Matmul, IsTheProductOfTheRoundedOperands) {
  for (const int threads : {1, 3}) {
    Device device(DeviceType::kCpu, threads);
    device.matmul_precision = MatmulPrecision::kBf16;
    for (const auto& [m, n, k] : std::vector<std::array<int64_t, 3>>{
             {32, 32, 1}, {129, 33, 47}, {33, 257, 65}, {64, 160, 32}, {300, 64, 500}})
      for (const bool ta : {false, true})
        for (const bool tb : {false, true})
          for (const float beta : {0.f, 1.f}) {
            SCOPED_TRACE(
                str(m, "x", n, "x", k, " ta ", ta, " tb ", tb, " beta ", beta, " threads ", threads));
            const int64_t lda = (ta ? m : k) + 3, ldb = (tb ? k : n) + 5, ldc = n + 2;
            auto floats = [](const char* name, int64_t count) {
              const Values values = random_values(name, count, {-1, 1});
              return std::vector<float>(values.begin(), values.end());
            };
            const auto a = floats("a", (ta ? k : m) * lda), b = floats("b", (tb ? n : k) * ldb),
                       c0 = floats("c", m * ldc);
            auto multiply = [&] {
              std::vector<float> c = c0;
              for (int64_t i = 0; i < m && beta == 0; ++i)
                for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = NAN;
              parallel_gemm(device, m, n, k, Operand<float>{a.data(), lda, ta},
                            Operand<float>{b.data(), ldb, tb}, beta, c.data(), ldc);
              return c;
            };
            const std::vector<float> c = multiply();
            EXPECT_EQ(std::memcmp(c.data(), multiply().data(), c.size() * sizeof(float)), 0)
                << "other bits the second time";
            Values got, expected;
            for (int64_t i = 0; i < m; ++i) {
              for (int64_t j = 0; j < n; ++j) {
                double sum = beta == 0 ? 0 : c0[i * ldc + j];
                for (int64_t l = 0; l < k; ++l)
                  sum += to_bf16(ta ? a[l * lda + i] : a[i * lda + l]) *
                         to_bf16(tb ? b[j * ldb + l] : b[l * ldb + j]);
                got.push_back(c[i * ldc + j]);
                expected.push_back(sum);
              }
              for (int64_t j = n; j < ldc; ++j)
                EXPECT_EQ(c[i * ldc + j], c0[i * ldc + j]) << "written past a row";
            }
            EXPECT_LE(nmse(got, expected), 1e-12);
          }
  }
}

TEST_F(Bf16Matmul, NanAndInfinityStay) {
  Device device(DeviceType::kCpu, 1);
  device.matmul_precision = MatmulPrecision::kBf16;
  std::vector<float> a(32 * 32, 0.f), b(32 * 32, 1.f), c(32 * 32, 0.f);
  a[0] = std::bit_cast<float>(0x7F800001u);  // a NaN whose upper half is infinity's
  a[32] = std::bit_cast<float>(0x7FFFFFFFu);
  a[64] = INFINITY;
  a[96] = 3.4e38f;  // the nearest bf16 is infinity
  parallel_gemm(device, 32, 32, 32, Operand<float>{a.data(), 32}, Operand<float>{b.data(), 32}, 0.f, c.data(),
                32);
  EXPECT_TRUE(std::isnan(c[0]));
  EXPECT_TRUE(std::isnan(c[32]));
  EXPECT_EQ(c[64], INFINITY);
  EXPECT_EQ(c[96], INFINITY);
  EXPECT_EQ(c[128], 0.f);
}

// A run on kMeta plans the memory of a real one, so it must ask for the same blocks.
TEST_F(Bf16Matmul, ShapesAloneAskForTheSameMemory) {
  auto plan = [](DeviceType type) {
    Device device(type, 2);
    device.matmul_precision = MatmulPrecision::kBf16;
    const Tensor x = zeros({70, 48}, DType::kF32, device), w = zeros({64, 48}, DType::kF32, device);
    device.arena().begin_step("step");
    ops::linear(x, w);
    device.arena().end_step();
    return *device.arena().plan("step");
  };
  const Arena::Plan real = plan(DeviceType::kCpu), meta = plan(DeviceType::kMeta);
  EXPECT_EQ(real.requests, 3);  // y and both rounded operands
  EXPECT_EQ(real.requests, meta.requests);
  EXPECT_EQ(real.slab_bytes, meta.slab_bytes);
}

TEST(Matmul, SizesThatDoNotFitAreNamed) {
  Device device(DeviceType::kCpu, 1);
  const Tensor x = zeros({2, 3}, DType::kF32, device), w = zeros({4, 5}, DType::kF32, device);
  try {
    ops::linear(x, w);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("[2, 3]"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("[4, 5]"), std::string::npos) << e.what();
  }
  EXPECT_THROW(ops::linear(x, zeros({4, 3}, DType::kF64, device)), Error);
}

}  // namespace
}  // namespace rookery::test
