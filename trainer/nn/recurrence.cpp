#include "trainer/nn/recurrence.h"

#include "kernels/ops/wkv6/wkv6.h"
#include "parallel/sequence/sequence.h"

namespace rookery::nn {
namespace {

Var recur(Context& cx, const std::string& slot, const Recurrence& op) {
  Communicator& ranks = cx.mesh.axis(Axis::kSeq);
  if (ranks.size() > 1)
    return (cx.seq.method == SeqMethod::kRing ? recur_ring : recur_scan)(ranks, op, cx.seq.received.get());
  const StateOut out = op.run(op.inputs, cx.seq.state(slot));
  cx.seq.leave(slot, out.state);
  return out.y;
}

}  // namespace

Var wkv5(Context& cx, const std::string& slot, const Var& r, const Var& k, const Var& v, const Var& w,
         const Var& u) {
  const auto run = [starts = cx.seq.doc_start](const std::vector<Var>& in, const Var& state) -> StateOut {
    const auto [y, last] = ops::wkv5(in[0], in[1], in[2], in[3], in[4], state, starts);
    return {y, last};
  };
  return recur(cx, slot, {{r, k, v, w, u}, 2, true, run});
}

Var wkv6(Context& cx, const std::string& slot, const Var& r, const Var& k, const Var& v, const Var& w,
         const Var& u) {
  const auto run = [starts = cx.seq.doc_start](const std::vector<Var>& in, const Var& state) -> StateOut {
    const auto [y, last] = ops::wkv6(in[0], in[1], in[2], in[3], in[4], state, starts);
    return {y, last};
  };
  return recur(cx, slot, {{r, k, v, w, u}, 2, true, run});
}

Var wkv7(Context& cx, const std::string& slot, const Var& r, const Var& w, const Var& k, const Var& v,
         const Var& a, const Var& b, Wkv7Decay decay) {
  const auto run = [starts = cx.seq.doc_start, decay](const std::vector<Var>& in,
                                                      const Var& state) -> StateOut {
    const auto [y, last] = ops::wkv7(in[0], in[1], in[2], in[3], in[4], in[5], decay, state, starts);
    return {y, last};
  };
  return recur(cx, slot, {{r, w, k, v, a, b}, 3, false, run});
}

}  // namespace rookery::nn
