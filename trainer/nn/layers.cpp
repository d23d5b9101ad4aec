#include "trainer/nn/layers.h"

#include "kernels/ops/embedding/embedding.h"

namespace rookery::nn {

Linear::Linear(Scope s, int64_t in, int64_t out, Init init, Split how, Bias with)
    : split(how),
      weight(s.param("weight", {out, in}, std::move(init),
                     how == Split::kNone  ? -1
                     : how == Split::kOut ? 0
                                          : 1)),
      bias(with == Bias::kNone ? nullptr
                               : &s.param("bias", {out}, constant(0), how == Split::kOut ? 0 : -1)) {
  RK_CHECK(split != Split::kIn || bias == nullptr, "[Linear] ", weight.name,
           ": every rank would add the bias");
}

Var Linear::operator()(const Context& cx, const Var& x) const {
  const Var y = ops::linear(x, cx(weight), bias ? cx(*bias) : Var());
  return split == Split::kIn ? sum_over(y, cx.mesh.axis(Axis::kTensor)) : y;
}

Var LayerNorm::across_ranks(const Context& cx, const Var& x) const {
  Communicator& ranks = cx.mesh.axis(Axis::kTensor);
  return slice_last((*this)(cx, gather_last(x, ranks)), ranks);
}

Var embedding(const Context& cx, const Tensor& ids, Parameter& table) {
  const int64_t first = table.spec.part * table.local()[0];
  return sum_over(ops::embedding(ids, cx(table), first), cx.mesh.axis(Axis::kTensor));
}

ops::VocabSlice vocab_slice(const Context& cx, const Parameter& head) {
  Communicator& ranks = cx.mesh.axis(Axis::kTensor);
  if (ranks.size() == 1) return {};
  return {head.spec.part * head.local()[0], [&ranks](const Tensor& t) { ranks.all_reduce(t, Reduce::kMax); },
          [&ranks](const Tensor& t) { ranks.all_reduce(t, Reduce::kSum); }};
}

}  // namespace rookery::nn
