// matmul_test.cpp: products with weights in both storage orders, and the split over threads.
#include <gtest/gtest.h>

#include <array>
#include <cmath>

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
  for (const auto& [B, T, K, N] : kSizes) {
    OpCase c(str("linear B", B, " T", T, " K", K, " N", N));
    c.input("x", {B, T, K}, {-1, 1});
    c.input("w", {N, K}, {-1, 1});
    c.bits_depend_on_threads = true;  // BLAS blocks each thread's part on its own
    c.run = [](const Named<Var>& in) { return std::vector{ops::linear(in["x"], in["w"])}; };
    c.reference = [M = B * T, K = K, N = N](const Named<Values>& in) {
      return Outputs{product(in["x"], in["w"], true, nullptr, M, N, K)};
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
