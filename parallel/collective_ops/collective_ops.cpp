#include "parallel/collective_ops/collective_ops.h"

#include <vector>

namespace rookery {
namespace {

Shape with_last(const Shape& shape, int64_t last) {
  std::vector<int64_t> dims(shape.begin(), shape.end());
  dims.back() = last;
  return Shape(std::span<const int64_t>(dims));
}

// [.., n] as rows.
Tensor rows_of(const Tensor& x) {
  const int64_t n = x.shape().back();
  return x.reshape({n == 0 ? 0 : x.numel() / n, n});
}

Tensor as(DType dtype, const Tensor& x) {
  if (x.dtype() == dtype) return x;
  const Tensor y = empty(x.shape(), dtype, x.device());
  copy(x, y);
  return y;
}
DType added_as(const Tensor& x) { return x.dtype() == DType::kBF16 ? DType::kF32 : x.dtype(); }

Tensor sum_of_ranks(const Tensor& x, Communicator& ranks) {
  const Tensor sum = empty(x.shape(), added_as(x), x.device());
  copy(x, sum);
  ranks.all_reduce(sum, Reduce::kSum);
  return as(x.dtype(), sum);
}

// Communicators know slices of dim 0 alone: the channels of rank r as rows of their own, number r.
Tensor channels_of_all(const Tensor& x, Communicator& ranks) {
  const Tensor rows = rows_of(x);
  const int64_t M = rows.dim(0), n = rows.dim(1), P = ranks.size();
  const Tensor slices = empty({P, M, n}, x.dtype(), x.device());
  ranks.all_gather(rows, slices);
  const Tensor all = empty({M, P * n}, x.dtype(), x.device());
  for (int64_t r = 0; r < P; ++r) copy_columns(slices.narrow(r, 1).reshape({M, n}), 0, n, all, r * n);
  return all.reshape(with_last(x.shape(), P * n));
}

// The reverse: of [.., P n] on every rank, this rank's channels summed.
Tensor own_channels_summed(const Tensor& x, Communicator& ranks) {
  const Tensor rows = rows_of(as(added_as(x), x));
  const int64_t M = rows.dim(0), P = ranks.size(), n = rows.dim(1) / P;
  const Tensor slices = empty({P, M, n}, rows.dtype(), x.device());
  for (int64_t r = 0; r < P; ++r) copy_columns(rows, r * n, n, slices.narrow(r, 1).reshape({M, n}), 0);
  const Tensor sum = empty({M, n}, rows.dtype(), x.device());
  ranks.reduce_scatter(slices, sum, Reduce::kSum);
  return as(x.dtype(), sum).reshape(with_last(x.shape(), n));
}

}  // namespace

Var sum_over(const Var& x, Communicator& ranks) {
  if (ranks.size() == 1) return x;
  const Tensor sum = dear({x}, [&] { return std::vector{sum_of_ranks(x.value(), ranks)}; })[0];
  return record("sum_over", {x}, sum,
                [&ranks](const Tensor& dy, Grads& g) { g.give(0, sum_of_ranks(dy, ranks)); });
}

Var gather_last(const Var& x, Communicator& ranks) {
  if (ranks.size() == 1) return x;
  const Tensor all = dear({x}, [&] { return std::vector{channels_of_all(x.value(), ranks)}; })[0];
  return record("gather_last", {x}, all,
                [&ranks](const Tensor& dy, Grads& g) { g.give(0, own_channels_summed(dy, ranks)); });
}

Var slice_last(const Var& x, Communicator& ranks) {
  if (ranks.size() == 1) return x;
  const int64_t P = ranks.size(), n = x.shape().back() / P, first = ranks.rank() * n;
  RK_CHECK(n * P == x.shape().back(), "[slice_last] ", x.shape(), " over ", P, " ranks");
  const Tensor y = empty(with_last(x.shape(), n), x.value().dtype(), x.value().device());
  copy_columns(rows_of(x.value()), first, n, rows_of(y), 0);
  return record("slice_last", {x}, y, [n, first, shape = x.shape()](const Tensor& dy, Grads& g) {
    const Tensor dx = zeros(shape, dy.dtype(), dy.device());
    copy_columns(rows_of(dy), 0, n, rows_of(dx), first);
    g.give(0, dx);
  });
}

}  // namespace rookery
