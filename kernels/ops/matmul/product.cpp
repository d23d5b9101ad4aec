// product.cpp: picks the library by device and dtype (kernels/ops/matmul/product.h).
#include "kernels/ops/matmul/product.h"

#include <type_traits>

#include "kernels/cuda/blas.h"
#include "kernels/ops/matmul/gemm.h"

namespace rookery {
namespace {

template <class T>
Operand<T> operand(const Matrix& m) {
  return {m.tensor.data<T>() + m.offset, m.ld, m.transposed};
}

cuda::GpuMatrix on_gpu(const Matrix& m) {
  return {m.tensor.raw() + m.offset * static_cast<int64_t>(dtype_size(m.tensor.dtype())), m.ld, m.transposed};
}

// A matrix in float, its rows as stored.
struct Widened {
  Widened(const Operand<bf16>& m, int64_t rows, int64_t columns)
      : ld(m.transposed ? rows : columns), transposed(m.transposed) {
    const int64_t stored = transposed ? columns : rows;
    values.resize(static_cast<size_t>(stored * ld));
    for (int64_t i = 0; i < stored; ++i)
      for (int64_t j = 0; j < ld; ++j)
        values[static_cast<size_t>(i * ld + j)] = static_cast<float>(m.data[i * m.ld + j]);
  }
  Operand<float> operand() const { return {values.data(), ld, transposed}; }

  int64_t ld;
  bool transposed;
  std::vector<float> values;
};

// bf16 as the GPU's library does it, for emul: exact products, sums in float, one rounding.
template <class In, class Out>
void multiply(Device& device, int64_t m, int64_t n, int64_t k, const Operand<In>& a, const Operand<In>& b,
              bool accumulate, Out* c, int64_t ldc) {
  if constexpr (!std::is_same_v<In, bf16>) {
    parallel_gemm(device, m, n, k, a, b, Out(accumulate ? 1 : 0), c, ldc);
  } else {
    const Widened wide_a(a, m, k), wide_b(b, k, n);
    const float beta = accumulate ? 1 : 0;
    if constexpr (std::is_same_v<Out, float>) {
      parallel_gemm(device, m, n, k, wide_a.operand(), wide_b.operand(), beta, c, ldc);
    } else {
      Widened wide_c({c, ldc}, m, n);
      parallel_gemm(device, m, n, k, wide_a.operand(), wide_b.operand(), beta, wide_c.values.data(), n);
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = bf16(wide_c.values[static_cast<size_t>(i * n + j)]);
    }
  }
}

}  // namespace

void product(int64_t m, int64_t n, int64_t k, const Matrix& a, const Matrix& b, bool accumulate,
             const Matrix& c) {
  const DType in = a.tensor.dtype(), out = c.tensor.dtype();
  RK_CHECK(
      in == b.tensor.dtype() && (in == out || (in == DType::kBF16 && out == DType::kF32)) && !c.transposed,
      "[product] ", in, " times ", b.tensor.dtype(), " to ", out);
  Device& device = c.tensor.device();
  if (!device.on_host()) {
    RK_CHECK(in != DType::kF64, "[product] f64 is for the CPU");
    const Range range(device, "product");
    return cuda::product(device, {m, n, k, on_gpu(a), on_gpu(b), on_gpu(c), in, out, accumulate});
  }
  if (in == DType::kBF16 && device.type() == DeviceType::kMeta) return;
  // By address: what is noted outlives the tensors.
  auto submit = [&]<class In, class Out>() {
    device.submit([=, &device, a = operand<In>(a), b = operand<In>(b), to = c.tensor.data<Out>() + c.offset,
                   ld = c.ld] { multiply(device, m, n, k, a, b, accumulate, to, ld); });
  };
  if (in != DType::kBF16)
    dispatch_float(in, [&]<class T>() { submit.template operator()<T, T>(); });
  else if (out == DType::kF32)
    submit.operator()<bf16, float>();
  else
    submit.operator()<bf16, bf16>();
}

}  // namespace rookery
