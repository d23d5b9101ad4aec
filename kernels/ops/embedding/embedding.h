// embedding.h: rows of a table by token id.
#pragma once

#include "kernels/autograd/autograd.h"

namespace rookery::ops {

// y[b, t] = table[ids[b, t]]. ids: i32 [B, T], each in [0, V) (checked by the caller); table: [V, C]; y: [B,
// T, C]. The gradient adds rows in the order of the tokens: the same bits at any number of threads.
Var embedding(const Tensor& ids, const Var& table);

}  // namespace rookery::ops
