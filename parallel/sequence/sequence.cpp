#include "parallel/sequence/sequence.h"

#include <array>

#include "kernels/ops/matmul/product.h"

namespace rookery {
namespace {

bool is_first(const Communicator& ranks) { return ranks.rank() == 0; }
bool is_last(const Communicator& ranks) { return ranks.rank() == ranks.size() - 1; }

// [B, H, N, N].
Shape state_shape(const Recurrence& op) {
  const auto [B, T, H, N] = op.inputs[0].value().dims<4>("[recur] input");
  return {B, H, N, N};
}
DType state_dtype(const Recurrence& op) {
  const DType dtype = op.inputs[0].value().dtype();
  return dtype == DType::kBF16 ? DType::kF32 : dtype;
}
Device& device_of(const Recurrence& op) { return op.inputs[0].value().device(); }

// The inputs without their place on a tape.
std::vector<Var> constants(const Recurrence& op) {
  std::vector<Var> values;
  for (const Var& input : op.inputs) values.emplace_back(input.value());
  return values;
}

Tensor identity(const Recurrence& op) {
  const Shape shape = state_shape(op);
  const int64_t N = shape.back();
  std::vector<float> ones(static_cast<size_t>(shape.numel()), 0);
  for (int64_t i = 0; i < shape.numel() / N; ++i) ones[static_cast<size_t>(i * N + i % N)] = 1;
  return tensor_from(std::span<const float>(ones), shape, state_dtype(op), device_of(op));
}

// P state + more, or state P + more; P transposed on the way back. All [B, H, N, N].
Tensor compose(bool key_first, const Tensor& p, bool transposed, const Tensor& state, const Tensor& more) {
  const int64_t N = state.dim(3), heads = state.dim(0) * state.dim(1);
  const Tensor out = empty_like(more);
  copy(more, out);
  for (int64_t i = 0; i < heads; ++i) {
    const Matrix left{p, N, transposed, i * N * N}, right{state, N, false, i * N * N};
    product(N, N, N, key_first ? left : right, key_first ? right : left, true, {out, N, false, i * N * N});
  }
  return out;
}

}  // namespace

SeqMethod seq_method_from_string(const std::string& name) {
  if (name == "scan") return SeqMethod::kScan;
  RK_CHECK(name == "ring", "[seq_method_from_string] ", name);
  return SeqMethod::kRing;
}

std::vector<Tensor> Received::get(Received* kept, const std::function<std::vector<Tensor>()>& exchange) {
  if (kept == nullptr) return exchange();
  if (!kept->again_) return kept->got_.emplace_back(exchange());
  RK_CHECK(kept->next_ < kept->got_.size(), "[Received] the second run asks for more than the first");
  return std::move(kept->got_[kept->next_++]);
}

Var last_token(const Var& x) {
  const auto [B, T, C] = x.value().dims<3>("[last_token] x");
  const Tensor last = empty({B, 1, C}, x.value().dtype(), x.value().device());
  copy_columns(x.value(), T - 1, 1, last, 0);
  return record("last_token", {x}, last.reshape({B, C}),
                [B = B, T = T, C = C](const Tensor& dlast, Grads& g) {
                  const GradTarget dx = g.into(0);
                  Tensor row = dlast.reshape({B, 1, C});
                  if (dx.accumulate) {
                    const Tensor before = empty_like(row);
                    copy_columns(dx.tensor, T - 1, 1, before, 0);
                    row = sum_of(before, row);
                  } else {
                    fill_zero(dx.tensor);
                  }
                  copy_columns(row, 0, 1, dx.tensor, T - 1);
                });
}

Var from_left(Communicator& ranks, const Var& x, Received* kept) {
  const Tensor& mine = x.value();
  const Tensor theirs = Received::get(kept, [&] {
    if (!is_last(ranks)) ranks.send(mine, ranks.rank() + 1);
    if (is_first(ranks)) return std::vector{zeros(mine.shape(), mine.dtype(), mine.device())};
    const Tensor got = empty_like(mine);
    ranks.recv(got, ranks.rank() - 1);
    return std::vector{got};
  })[0];
  return record("from_left", {x}, theirs, [&ranks](const Tensor& dtheirs, Grads& g) {
    if (!is_first(ranks)) ranks.send(dtheirs, ranks.rank() - 1);
    if (is_last(ranks)) return;
    const Tensor dx = empty_like(dtheirs);
    ranks.recv(dx, ranks.rank() + 1);
    g.give(0, dx);
  });
}

Tensor transfer(const Recurrence& op) {
  const Shape s = state_shape(op);
  const Tensor both = empty({2, s[0], s[1], s[2], s[3]}, state_dtype(op), device_of(op));
  std::vector<Var> inputs = constants(op);
  copy(op.run(inputs, Var()).state.value(), both.narrow(1, 1).reshape(s));
  const Tensor& value = op.inputs[op.value].value();
  inputs[op.value] = zeros(value.shape(), value.dtype(), value.device());
  copy(op.run(inputs, identity(op)).state.value(), both.narrow(0, 1).reshape(s));
  return both;
}

Tensor entry_gradient(const Recurrence& op, const Tensor& dy) {
  Tape tape;
  const Var entry = tape.watch(zeros(state_shape(op), state_dtype(op), device_of(op)));
  tape.backward(op.run(constants(op), entry).y, &dy);
  return tape.grad(entry);
}

Var recur_ring(Communicator& ranks, const Recurrence& op, Received* kept) {
  Var entry;
  if (!is_first(ranks)) {
    const Tensor theirs = Received::get(kept, [&] {
      const Tensor got = empty(state_shape(op), state_dtype(op), device_of(op));
      ranks.recv(got, ranks.rank() - 1);
      return std::vector{got};
    })[0];
    // An input puts it on the tape, but takes no gradient from it.
    entry = record("state_from_left", {op.inputs[0]}, theirs,
                   [&ranks](const Tensor& dstate, Grads&) { ranks.send(dstate, ranks.rank() - 1); });
  }
  const StateOut out = op.run(op.inputs, entry);
  if (is_last(ranks)) return out.y;
  Received::get(kept, [&] {
    ranks.send(out.state.value(), ranks.rank() + 1);
    return std::vector<Tensor>();
  });
  // y passes through, so that this is walked although nothing here reads the state.
  return record("state_to_right", {out.y, out.state}, out.y.value(),
                [&ranks, shape = state_shape(op), dtype = state_dtype(op)](const Tensor& dy, Grads& g) {
                  const Tensor dstate = empty(shape, dtype, dy.device());
                  ranks.recv(dstate, ranks.rank() + 1);
                  g.give(0, dy);
                  g.give(1, dstate);
                });
}

Var recur_scan(Communicator& ranks, const Recurrence& op, Received* kept) {
  const int J = ranks.size(), j = ranks.rank();
  const Shape s = state_shape(op);
  const Shape pair{2, s[0], s[1], s[2], s[3]};
  const DType dtype = state_dtype(op);
  Device& device = device_of(op);
  // P and Q of all ranks: [J, 2, B, H, N, N]. Nobody asks for those of the last.
  const std::vector<Tensor> got = Received::get(kept, [&] {
    const Tensor all = empty({J, 2, s[0], s[1], s[2], s[3]}, dtype, device);
    ranks.all_gather(is_last(ranks) ? zeros(pair, dtype, device) : transfer(op), all);
    const auto part = [&](int rank, int which) {
      return all.narrow(rank, 1).reshape(pair).narrow(which, 1).reshape(s);
    };
    Tensor state;
    for (int i = 0; i < j; ++i)
      state = i == 0 ? part(0, 1) : compose(op.key_first, part(i, 0), false, state, part(i, 1));
    return std::vector{all, state};
  });
  const Tensor all = got[0];
  const StateOut out = op.run(op.inputs, Var(got[1]));
  Recurrence here{constants(op), op.value, op.key_first, op.run};
  return record("scan", {out.y, out.state}, out.y.value(),
                [&ranks, here = std::move(here), all, s, pair, dtype, J, j](const Tensor& dy, Grads& g) {
                  Device& dev = dy.device();
                  const Tensor mine = is_first(ranks) ? zeros(s, dtype, dev) : entry_gradient(here, dy);
                  const Tensor entries = empty({J, s[0], s[1], s[2], s[3]}, dtype, dev);
                  ranks.all_gather(mine, entries);
                  g.give(0, dy);
                  if (is_last(ranks)) return;
                  const auto part = [&](int rank) { return entries.narrow(rank, 1).reshape(s); };
                  Tensor dstate = part(J - 1);
                  for (int i = J - 2; i > j; --i)
                    dstate = compose(here.key_first, all.narrow(i, 1).reshape(pair).narrow(0, 1).reshape(s),
                                     true, dstate, part(i));
                  g.give(1, dstate);
                });
}

}  // namespace rookery
