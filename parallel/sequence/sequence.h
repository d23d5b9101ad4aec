// sequence.h: what tokens need of those before them where these lie on ranks to the left: the row of the
// token shift and the state of a recurrence, forward to the right, their gradients to the left
// (wkv-kernels 10). Who asks for it: trainer/nn/recurrence.h, Entry (trainer/models/rwkv_parts.h).
#pragma once

#include <functional>
#include <vector>

#include "kernels/autograd/autograd.h"
#include "parallel/comm/communicator.h"

namespace rookery {

// How the state gets to the right: rank after rank, or by what each rank makes of any state at once.
enum class SeqMethod : uint8_t { kRing, kScan };
SeqMethod seq_method_from_string(const std::string& name);  // "ring", "scan"

// What a part of a forward pass got from other ranks. The second run of a recomputed part finds it here, and
// sends nothing: the others do not run that part at the same time.
class Received {
 public:
  void run_again() { again_ = true; }
  // What `exchange` returned in the first run. Null: of a pass that has no second run.
  static std::vector<Tensor> get(Received* kept, const std::function<std::vector<Tensor>()>& exchange);

 private:
  std::vector<std::vector<Tensor>> got_;
  size_t next_ = 0;
  bool again_ = false;
};

Var last_token(const Var& x);  // [B, T, C] to [B, C]

// x of the rank to the left, on the first rank zeros; the gradient goes one to the left. Any shape.
Var from_left(Communicator& ranks, const Var& x, Received* kept);

struct StateOut {
  Var y, state;  // [B, T, H, N], [B, H, N, N] after the last token
};

// A recurrence over the tokens of this rank, affine in its state: S' = P S + Q where states are [key, value],
// S' = S P + Q where they are [value, key], for each sequence and head.
struct Recurrence {
  std::vector<Var> inputs;  // without the state; the first is [B, T, H, N]
  size_t value;             // the one of them without which nothing is added to the state
  bool key_first;           // states are [key, value]
  std::function<StateOut(const std::vector<Var>& inputs, const Var& state)> run;  // undefined state: zero
};

// P and Q of the tokens of this rank: [2, B, H, N, N].
Tensor transfer(const Recurrence& op);
// The gradient of the state before these tokens where that behind them has none. dy: [B, T, H, N].
Tensor entry_gradient(const Recurrence& op, const Tensor& dy);

// y [B, T, H, N] of this rank's tokens, the state passed along all ranks in their order. Ring: each waits for
// the one to the left, with nothing computed twice: the bits of one rank, where the kernel gives those for
// calls that hand the state on. Scan: all ranks at once, for two more forward passes of the recurrence and,
// backward, one of each.
Var recur_ring(Communicator& ranks, const Recurrence& op, Received* kept);
Var recur_scan(Communicator& ranks, const Recurrence& op, Received* kept);

}  // namespace rookery
