// collective_ops.h: collectives as operations on the tape, for layers whose work several ranks share. Who
// calls them: trainer/nn/layers.h.
//
// Values and gradients along the shared part of a model: a tensor that all ranks compute alike has the whole
// value on each, and on each a part of its gradient; the parts add up to the whole. What only one rank has
// (its heads, its hidden channels) has its whole gradient there. So no operation between needs to know of
// ranks, and the gradient of a parameter that every rank has whole is summed over them once per step
// (ParamStore).
#pragma once

#include "kernels/autograd/autograd.h"
#include "parallel/comm/communicator.h"

namespace rookery {

// On one rank each of them returns x itself. `ranks` outlives the tape. bf16 is summed in f32.

// The sum of every rank's x, on all of them: a sub-layer's output, of which each rank has computed what its
// heads contribute. The gradient is the sum of every rank's part of it.
Var sum_over(const Var& x, Communicator& ranks);
// x: [.., n], this rank's channels; result: [.., ranks n], those of all ranks in their order. Rank r's
// gradient is the sum of what every rank gives for its channels.
Var gather_last(const Var& x, Communicator& ranks);
// x: [.., ranks n], alike on all ranks; result: [.., n], this rank's channels. Of the others the gradient is
// 0.
Var slice_last(const Var& x, Communicator& ranks);

}  // namespace rookery
