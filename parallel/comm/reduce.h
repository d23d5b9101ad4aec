// reduce.h: sums, maxima and minima over the ranks in their order, for every backend on host memory: the
// reason why their results agree bit for bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel/comm/communicator.h"

namespace rookery::comm_detail {

constexpr int64_t kReduceBlock = 512;  // elements at a time, in registers and L1

// out[i] = in[0][i] op in[1][i] op ..; out may be one of them.
template <class T>
void reduce_range(const std::vector<const T*>& in, T* out, int64_t begin, int64_t end, Reduce op) {
  T sum[kReduceBlock];
  for (int64_t block = begin; block < end; block += kReduceBlock) {
    const int64_t n = std::min(kReduceBlock, end - block);
    std::copy_n(in[0] + block, n, sum);
    for (size_t r = 1; r < in.size(); ++r) {
      const T* x = in[r] + block;
      switch (op) {
        case Reduce::kSum:
          for (int64_t i = 0; i < n; ++i) sum[i] += x[i];
          break;
        case Reduce::kMax:
          for (int64_t i = 0; i < n; ++i) sum[i] = x[i] > sum[i] || x[i] != x[i] ? x[i] : sum[i];
          break;
        case Reduce::kMin:
          for (int64_t i = 0; i < n; ++i) sum[i] = x[i] < sum[i] || x[i] != x[i] ? x[i] : sum[i];
          break;
      }
    }
    std::copy_n(sum, n, out + block);
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
