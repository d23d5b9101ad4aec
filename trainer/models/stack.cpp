#include "trainer/models/stack.h"

#include "kernels/ops/embedding/embedding.h"

namespace rookery {

Carry Stack::embed(nn::Context& cx, const Tensor& ids) {
  const Var x = ops::embedding(ids, cx(*emb_));
  return {first_norm_ ? first_norm_(cx, x) : x};
}

}  // namespace rookery
