// reduce.h: sums, maxima and minima over the ranks in their order, for every backend on host memory: the
// reason why their results agree bit for bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel/comm/communicator.h"

namespace rookery::comm_detail {

constexpr int64_t kReduceBlock = 2048;  // elements at a time, in L1

// out[i] = a[i] op b[i]; out may be a or b.
template <class T>
void reduce_two(const T* a, const T* b, T* out, int64_t n, Reduce op) {
  switch (op) {
    case Reduce::kSum:
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
      break;
    case Reduce::kMax:
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) out[i] = b[i] > a[i] || b[i] != b[i] ? b[i] : a[i];
      break;
    case Reduce::kMin:
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) out[i] = b[i] < a[i] || b[i] != b[i] ? b[i] : a[i];
      break;
  }
}

// out[i] = in[0][i] op in[1][i] op ..; out may be one of them.
template <class T>
void reduce_range(const std::vector<const T*>& in, T* out, int64_t begin, int64_t end, Reduce op) {
  const size_t ranks = in.size();
  if (ranks == 1 && in[0] != out) std::copy(in[0] + begin, in[0] + end, out + begin);
  if (ranks == 2) return reduce_two(in[0] + begin, in[1] + begin, out + begin, end - begin, op);
  T sum[kReduceBlock];  // out may be read later than the first
  for (int64_t block = begin; ranks > 2 && block < end; block += kReduceBlock) {
    const int64_t n = std::min(kReduceBlock, end - block);
    reduce_two(in[0] + block, in[1] + block, sum, n, op);
    for (size_t r = 2; r + 1 < ranks; ++r) reduce_two(sum, in[r] + block, sum, n, op);
    reduce_two(sum, in[ranks - 1] + block, out + block, n, op);
  }
}

// body.operator()<T>() for the types that can be reduced.
template <class F>
void dispatch_number(DType dtype, F&& body) {
  switch (dtype) {
    case DType::kI64:
      return body.template operator()<int64_t>();
    case DType::kI32:
      return body.template operator()<int32_t>();
    case DType::kU8:
      RK_CHECK(false, "[reduce] cannot reduce ", dtype);
      return;
    default:
      return dispatch_float(dtype, std::forward<F>(body));
  }
}

}  // namespace rookery::comm_detail
