// recurrence.h: the state recurrences of the RWKV models with the state of the tokens before: carried, or on
// the ranks to the left. Kernels: kernels/ops/wkv6, wkv7; how states travel: parallel/sequence.
#pragma once

#include <string>

#include "kernels/ops/wkv7/wkv7.h"
#include "trainer/nn/context.h"

namespace rookery::nn {

// The operations of the same names (wkv6.h, wkv7.h); the state lies in cx.seq under `slot`. r, k, v, a, b,
// result: [B, T, H, N]; w: the same, of wkv5 [H, N]; u: [H, N].
Var wkv5(Context& cx, const std::string& slot, const Var& r, const Var& k, const Var& v, const Var& w,
         const Var& u);
Var wkv6(Context& cx, const std::string& slot, const Var& r, const Var& k, const Var& v, const Var& w,
         const Var& u);
Var wkv7(Context& cx, const std::string& slot, const Var& r, const Var& w, const Var& k, const Var& v,
         const Var& a, const Var& b, Wkv7Decay decay);

}  // namespace rookery::nn
