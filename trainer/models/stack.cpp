#include "trainer/models/stack.h"

#include <utility>

#include "trainer/nn/layers.h"

namespace rookery {

Carry Stack::embed(nn::Context& cx, const Tensor& ids) {
  const Var x = nn::embedding(cx, ids, *emb_);
  return {first_norm_ ? first_norm_(cx, x) : x};
}

void Stack::run_block(int64_t i, nn::Context& cx, Carry& carry) {
  if (cx.tape == nullptr || recompute == Recompute::kNone) return blocks_[i](cx, carry);
  // The second run begins with the states that the first found, and leaves none.
  nn::SeqContext found = cx.seq;
  found.carry = false;
  if (cx.mesh.degree(Axis::kSeq) > 1) found.received = std::make_shared<Received>();
  const auto segment = [&run = blocks_[i], tape = cx.tape, first = &cx.seq, mesh = &cx.mesh, found,
                        carry]() mutable -> std::vector<Var> {
    nn::SeqContext* const seq = std::exchange(first, nullptr);
    nn::Context here{tape, seq ? *seq : found, *mesh};
    if (seq) seq->received = found.received;
    Carry passed = carry;
    run(here, passed);
    if (seq) {
      seq->received = nullptr;
      if (found.received) found.received->run_again();
    }
    return {passed.x, passed.v_first};
  };
  const auto out =
      recomputed(cx.tape, segment, recompute == Recompute::kBlock ? Keep::kNothing : Keep::kDear);
  carry.x = out[0];
  carry.v_first = out[1];
}

}  // namespace rookery
