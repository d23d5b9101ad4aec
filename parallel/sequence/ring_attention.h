// ring_attention.h: attention over tokens that lie on several ranks: by blocks of keys and values that travel
// around (arXiv 2310.01889), or by gathering what is small enough for it.
#pragma once

#include "kernels/ops/attention/parted_attention.h"
#include "parallel/comm/communicator.h"

namespace rookery {

// attention() on the tokens of this rank and of all to the left. q: [B, T, Hq, D]; k, v: [B, T, Hkv, D], of
// this rank, which has the tokens from options.past on, T per rank. A rank holds its own block and one that
// passes by; backward the gradients of a block travel along with it, and from the last rank home.
Var ring_attention(Communicator& ranks, const Var& q, const Var& k, const Var& v,
                   const ops::AttentionOptions& options);

// x [B, T, ...] of the ranks to the left and of this one: [B, (rank + 1) T, ...]. Undefined stays so.
Var gather_left(Communicator& ranks, const Var& x);

}  // namespace rookery
