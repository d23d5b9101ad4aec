// gold.h: the keys that all GOLD blocks share, expanded from GoldFinch's compressed cache (goldfinch 1).
// Products and tape record: gold.cpp; the norm: kernels/ops/norm/rms_norm.h.
#pragma once

#include "kernels/autograd/autograd.h"

namespace rookery::ops {

// keys = rms(concat(x0, c) w^T), rms(z) = z / (root mean square of z + 1e-8). x0, keys: [B, T, D], embeddings
// after ln0; c: [B, T, R], the cache; w: [D, D + R]. The concatenation is never made.
Var gold_keys(const Var& x0, const Var& c, const Var& w);

}  // namespace rookery::ops
