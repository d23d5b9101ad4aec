#include "trainer/models/model.h"

#include "kernels/ops/matmul/matmul.h"
#include "parallel/collective_ops/collective_ops.h"

namespace rookery {

Recompute recompute_from_string(const std::string& name) {
  if (name == "selective") return Recompute::kSelective;
  if (name == "block") return Recompute::kBlock;
  RK_CHECK(name == "none", "[recompute_from_string] ", name);
  return Recompute::kNone;
}

std::vector<Model::Flow> Model::flow(int64_t, const nn::Context&, const Tensor& ids, Carry& carry) {
  return {{&carry.x, {ids.dim(0), ids.dim(1), embedding().global[1]}}};
}

void Model::block(int64_t i, nn::Context& cx, Carry& carry) {
  const int64_t unit = i + 1;
  if (cx.units) cx.units->enter(unit);
  run_block(i, cx, carry);
  if (cx.units) carry.x = cx.units->watch(unit, carry.x);
}

Var Model::hidden(nn::Context& cx, const Tensor& ids) {
  Carry carry = embed(cx, ids);
  for (int64_t i = 0; i < num_blocks(); ++i) block(i, cx, carry);
  return final_norm(cx, carry);
}

Var Model::logits(nn::Context& cx, const Tensor& ids) { return logits_of(cx, hidden(cx, ids)); }

Var Model::logits_of(const nn::Context& cx, const Var& hidden) {
  return gather_last(ops::linear(hidden, cx(head())), cx.mesh.axis(Axis::kTensor));
}

}  // namespace rookery
