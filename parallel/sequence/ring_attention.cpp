#include "parallel/sequence/ring_attention.h"

#include <memory>

namespace rookery {
namespace {

void send(Communicator& ranks, std::initializer_list<Tensor> tensors, int to) {
  for (const Tensor& t : tensors) ranks.send(t, to);
}
Tensor recv_like(Communicator& ranks, const Tensor& like, int from) {
  const Tensor got = empty_like(like);
  ranks.recv(got, from);
  return got;
}

Shape with_tokens(const Shape& shape, int64_t tokens) {
  std::vector<int64_t> dims(shape.begin(), shape.end());
  dims[1] = tokens;
  return Shape(std::span<const int64_t>(dims));
}

}  // namespace

Var ring_attention(Communicator& ranks, const Var& q, const Var& k, const Var& v,
                   const ops::AttentionOptions& o) {
  const int rank = ranks.rank(), last = ranks.size() - 1;
  const int64_t T = q.shape()[1];
  check_shape(k.value(), with_tokens(k.shape(), T), "[ring_attention] k");
  RK_CHECK(o.past == rank * T, "[ring_attention] ", o.past, " tokens before ", T, " of rank ", rank);
  // Shared with the backward pass, which so needs no more than y and a few numbers per query.
  const auto attention = std::make_shared<ops::PartedAttention>(q.value(), o);
  Tensor keys = k.value(), values = v.value();
  for (int from = rank; from >= 0; --from) {
    if (from < rank) {
      keys = recv_like(ranks, keys, rank - 1);
      values = recv_like(ranks, values, rank - 1);
    }
    if (rank < last) send(ranks, {keys, values}, rank + 1);
    attention->add(keys, values, from * T, from == 0);
  }
  return record("ring_attention", {q, k, v}, attention->y(),
                [&ranks, attention, k = k.value(), v = v.value(), q_shape = q.shape(), rank, last, T](
                    const Tensor& dy, Grads& g) {
                  const Tensor dq = empty(q_shape, dy.dtype(), dy.device());
                  Tensor at_k = k, at_v = v, dk = empty_like(k), dv = empty_like(v);
                  Tensor own_dk = dk, own_dv = dv;
                  for (int from = rank; from >= 0; --from) {
                    const bool here = from == rank;
                    if (!here)
                      for (Tensor* t : {&at_k, &at_v, &dk, &dv}) *t = recv_like(ranks, *t, rank - 1);
                    attention->backward(dy, at_k, at_v, from * T, {dq, !here}, {dk, !here}, {dv, !here});
                    if (rank < last) {
                      send(ranks, {at_k, at_v, dk, dv}, rank + 1);
                    } else if (!here) {
                      send(ranks, {dk, dv}, from);
                    }
                  }
                  if (rank < last) {
                    own_dk = recv_like(ranks, k, last);
                    own_dv = recv_like(ranks, v, last);
                  }
                  g.give(0, dq);
                  g.give(1, own_dk);
                  g.give(2, own_dv);
                });
}

Var gather_left(Communicator& ranks, const Var& x) {
  if (ranks.size() == 1 || !x.defined()) return x;
  const int64_t T = x.shape()[1], J = ranks.size(), seen = ranks.rank() + 1;
  const Shape shape = x.shape();
  std::vector<int64_t> dims(shape.begin(), shape.end());
  dims[0] *= J;
  const Shape ranks_shape{std::span<const int64_t>(dims)};  // [J B, T, ...]
  const Tensor all = empty(ranks_shape, x.value().dtype(), x.value().device());
  ranks.all_gather(x.value(), all);
  const Tensor joined = empty(with_tokens(shape, seen * T), all.dtype(), all.device());
  for (int64_t i = 0; i < seen; ++i) copy_columns(all.narrow(i * shape[0], shape[0]), 0, T, joined, i * T);
  return record("gather_left", {x}, joined,
                [&ranks, shape, ranks_shape, T, seen](const Tensor& dy, Grads& g) {
                  const Tensor parts = zeros(ranks_shape, dy.dtype(), dy.device());
                  for (int64_t i = 0; i < seen; ++i)
                    copy_columns(dy, i * T, T, parts.narrow(i * shape[0], shape[0]), 0);
                  // Sums of bf16 are kept in f32.
                  const DType dtype = sum_dtype(dy.dtype());
                  Tensor shares = parts, sum = empty(shape, dtype, dy.device());
                  if (dtype != dy.dtype()) copy(parts, shares = empty(ranks_shape, dtype, dy.device()));
                  ranks.reduce_scatter(shares, sum, Reduce::kSum);
                  if (dtype != dy.dtype()) {
                    const Tensor rounded = empty(shape, dy.dtype(), dy.device());
                    copy(sum, rounded);
                    sum = rounded;
                  }
                  g.give(0, sum);
                });
}

}  // namespace rookery
