// bench_op.cpp: `rookery bench op`: each operation at the shapes of a training step, forward and backward,
// beside the time that its memory traffic or its arithmetic would take alone at rates measured in the same
// run.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>

#include "kernels/base/rng.h"
#include "kernels/ops/activation/activation.h"
#include "kernels/ops/adamw/adamw.h"
#include "kernels/ops/attention/attention.h"
#include "kernels/ops/bench/fma_peak.h"
#include "kernels/ops/cross_entropy/cross_entropy.h"
#include "kernels/ops/embedding/embedding.h"
#include "kernels/ops/gold/gold.h"
#include "kernels/ops/goose/goose.h"
#include "kernels/ops/matmul/gemm.h"
#include "kernels/ops/matmul/matmul.h"
#include "kernels/ops/norm/norm.h"
#include "kernels/ops/norm/rms_norm.h"
#include "kernels/ops/rope/rope.h"
#include "kernels/ops/token_shift/token_shift.h"
#include "kernels/ops/wkv6/wkv6.h"
#include "kernels/ops/wkv7/wkv7.h"
#include "trainer/cli/bench.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/terminal.h"
#include "trainer/config/nearest.h"
#include "trainer/loop/human.h"

namespace rookery::cli {
namespace {

using loop::steady_now;

struct Sizes {
  int64_t B, T, C, H, N, F, V, D;
  int64_t rows() const { return B * T; }
};

// What a pass cannot do without.
struct Work {
  double bytes = 0;          // of tensors read and written once each
  double flops = 0;          // in matrix products
  double multiply_adds = 0;  // in the state recurrence
};

struct Rates {
  double copy_bytes, blas_flops, multiply_adds;  // per second
};

struct Floor {
  double seconds = 0;
  const char* by = "";
};

Floor floor_of(const Work& work, const Rates& rates) {
  Floor floor;
  auto at_least = [&](double seconds, const char* by) {
    if (seconds > floor.seconds) floor = {seconds, by};
  };
  at_least(work.bytes / rates.copy_bytes, "copy");
  at_least(work.flops / rates.blas_flops, "BLAS");
  at_least(work.multiply_adds / rates.multiply_adds, "FMA");
  return floor;
}

// The best of some repetitions: a rate is what the machine can do.
template <class F>
double best_seconds(F&& body) {
  double best = 1e30;
  for (int i = 0; i < 9; ++i) {
    const double begin = steady_now();
    body();
    best = std::min(best, steady_now() - begin);
  }
  return best;
}

Rates measure_rates(Device& device, const Sizes& s) {
  Rates rates;
  const int64_t bytes = int64_t{64} << 20;  // beyond the caches
  const Tensor from = zeros({bytes}, DType::kU8, device), to = zeros({bytes}, DType::kU8, device);
  rates.copy_bytes = 2.0 * static_cast<double>(bytes) / best_seconds([&] {
                       parallel_for(device.pool(), bytes, 1 << 16, [&](int64_t begin, int64_t end) {
                         std::memcpy(to.raw() + begin, from.raw() + begin, static_cast<size_t>(end - begin));
                       });
                     });
  const int64_t M = s.rows(), C = s.C;
  const Tensor x = zeros({M, C}, DType::kF32, device), w = zeros({C, C}, DType::kF32, device),
               y = zeros({M, C}, DType::kF32, device);
  rates.blas_flops = 2.0 * static_cast<double>(M * C * C) / best_seconds([&] {
                       parallel_gemm(device, M, C, C, Operand<float>{x.data<float>(), C},
                                     Operand<float>{w.data<float>(), C, true}, 0.f, y.data<float>(), C);
                     });
  rates.multiply_adds = measure_fma_rate(device);
  return rates;
}

// Calls the op once: on the tape, or with its own effect where it has no gradient.
using Call = std::function<std::vector<Var>(Tape&)>;

struct OpBench {
  std::string name, shape;
  Work forward, backward;
  std::function<Call()> prepare;  // makes the inputs
};

class Inputs {
 public:
  explicit Inputs(Device& device) : device_(device) {}
  Tensor random(const Shape& shape, double scale = 1) {
    const Philox numbers(1, stream_++);
    Tensor t = empty(shape, DType::kF32, device_);
    for (int64_t i = 0; i < t.numel(); ++i)
      t.data<float>()[i] = static_cast<float>(scale * (2 * numbers.uniform(i) - 1));
    return t;
  }
  Tensor ids(const Shape& shape, int64_t below) {
    const Philox numbers(1, stream_++);
    Tensor t = empty(shape, DType::kI32, device_);
    for (int64_t i = 0; i < t.numel(); ++i)
      t.data<int32_t>()[i] = static_cast<int32_t>(numbers.bits(i) % static_cast<uint64_t>(below));
    return t;
  }
  // A parameter; each call overwrites its gradient.
  std::function<Var(Tape&)> weight(const Shape& shape, double scale = 1) {
    auto p = std::make_shared<Parameter>();
    p->master = random(shape, scale);
    p->grad = zeros(shape, DType::kF32, device_);
    return [p](Tape& tape) {
      p->grad_written = false;
      return tape.leaf(*p);
    };
  }
  Device& device() { return device_; }

 private:
  Device& device_;
  uint64_t stream_ = 0;
};

std::vector<OpBench> all_ops(const Sizes& s, const std::shared_ptr<Inputs>& in) {
  const double f = 4, M = static_cast<double>(s.rows()), C = static_cast<double>(s.C);
  const double V = static_cast<double>(s.V), D = static_cast<double>(s.D);
  const double H = static_cast<double>(s.H), N = static_cast<double>(s.N), F = static_cast<double>(s.F);
  const Shape btc{s.B, s.T, s.C}, c{s.C};
  auto dims = [](std::initializer_list<int64_t> sizes) { return to_string(Shape(sizes)); };
  std::vector<OpBench> ops;

  ops.push_back({"embedding", dims({s.B, s.T, s.C}), {f * 2 * M * C}, {f * (M * C + V * C)}, [=] {
                   const Tensor ids = in->ids({s.B, s.T}, s.V);
                   return Call([=, table = in->weight({s.V, s.C})](Tape& tape) {
                     return std::vector{ops::embedding(ids, table(tape))};
                   });
                 }});
  ops.push_back({"layer_norm", dims({s.B, s.T, s.C}), {f * 2 * M * C}, {f * 3 * M * C}, [=] {
                   return Call(
                       [x = in->random(btc), gamma = in->weight(c), beta = in->weight(c)](Tape& tape) {
                         return std::vector{ops::layer_norm(tape.watch(x), gamma(tape), beta(tape))};
                       });
                 }});
  ops.push_back({"rms_norm", dims({s.B, s.T, s.C}), {f * 2 * M * C}, {f * 3 * M * C}, [=] {
                   return Call([x = in->random(btc), gamma = in->weight(c)](Tape& tape) {
                     return std::vector{ops::rms_norm(tape.watch(x), gamma(tape), 1e-5)};
                   });
                 }});
  ops.push_back({"group_norm", dims({s.B, s.T, s.H, s.N}) + " gated", {f * 3 * M * C}, {f * 5 * M * C}, [=] {
                   return Call([=, x = in->random(btc), gate = in->random(btc), gamma = in->weight(c),
                                beta = in->weight(c)](Tape& tape) {
                     return std::vector{ops::group_norm(tape.watch(x), gamma(tape), beta(tape), s.H, 64e-5,
                                                        tape.watch(gate))};
                   });
                 }});
  ops.push_back({"goose_keys", dims({s.B, s.T, s.H, s.N}), {f * 5 * M * C}, {f * 7 * M * C}, [=] {
                   return Call([=, key = in->random(btc), rate = in->random(btc), k_k = in->weight(c),
                                k_a = in->weight(c)](Tape& tape) {
                     const ops::GooseKeys keys =
                         ops::goose_keys(tape.watch(key), tape.watch(rate), k_k(tape), k_a(tape), s.H);
                     return std::vector{keys.k, keys.a, keys.b};
                   });
                 }});
  ops.push_back(
      {"goose_value", dims({s.B, s.T, s.C}), {f * 4 * M * C}, {f * 7 * M * C}, [=] {
         return Call([value = in->random(btc), first = in->random(btc), mix = in->random(btc)](Tape& tape) {
           return std::vector{ops::goose_value(tape.watch(value), tape.watch(first), tape.watch(mix))};
         });
       }});
  ops.push_back({"goose_output", dims({s.B, s.T, s.H, s.N}), {f * 6 * M * C}, {f * 11 * M * C}, [=] {
                   return Call([=, y = in->random(btc), r = in->random(btc), k = in->random(btc),
                                v = in->random(btc), gate = in->random(btc), gamma = in->weight(c),
                                beta = in->weight(c), r_k = in->weight({s.H, s.N})](Tape& tape) {
                     return std::vector{ops::goose_output(tape.watch(y), gamma(tape), beta(tape),
                                                          tape.watch(r), tape.watch(k), tape.watch(v),
                                                          r_k(tape), tape.watch(gate), 64e-5)};
                   });
                 }});
  ops.push_back({"shift_lerp", dims({s.B, s.T, s.C}) + " x 2", {f * 3 * M * C}, {f * 4 * M * C}, [=] {
                   return Call([x = in->random(btc), k = in->weight(c), r = in->weight(c)](Tape& tape) {
                     return ops::shift_lerp(tape.watch(x), {}, {k(tape), r(tape)});
                   });
                 }});
  const double lora = 2 * M * 5 * D * C;
  ops.push_back({"ddlerp",
                 dims({s.B, s.T, s.C}) + str(" x 5, rank ", s.D),
                 {f * (6 * M * C + 5 * M * D), lora},
                 {f * (7 * M * C + 10 * M * D), 3 * lora},
                 [=] {
                   std::vector<std::function<Var(Tape&)>> mu;
                   for (int q = 0; q < 5; ++q) mu.push_back(in->weight(c));
                   return Call([=, x = in->random(btc), h = in->random({s.B, s.T, 5 * s.D}),
                                w2 = in->weight({5, s.D, s.C}, 0.01)](Tape& tape) {
                     std::vector<Var> mix;
                     for (const auto& m : mu) mix.push_back(m(tape));
                     return ops::ddlerp(tape.watch(x), {}, mix, tape.watch(h), w2(tape));
                   });
                 }});
  auto element_wise = [&](const char* name, const Shape& shape, Var (*op)(const Var&)) {
    const double n = static_cast<double>(shape.numel());
    ops.push_back({name, to_string(shape), {f * 2 * n}, {f * 3 * n}, [=] {
                     return Call(
                         [=, x = in->random(shape)](Tape& tape) { return std::vector{op(tape.watch(x))}; });
                   }});
  };
  element_wise("tanh", {s.B, s.T, 5 * s.D}, ops::tanh);
  element_wise("relu_sq", {s.B, s.T, s.F}, ops::relu_sq);
  ops.push_back({"sigmoid_mul", dims({s.B, s.T, s.C}), {f * 3 * M * C}, {f * 5 * M * C}, [=] {
                   return Call([gate = in->random(btc), value = in->random(btc)](Tape& tape) {
                     return std::vector{ops::sigmoid_mul(tape.watch(gate), tape.watch(value))};
                   });
                 }});
  ops.push_back({"silu_mul", dims({s.B, s.T, s.F}), {f * 3 * M * F}, {f * 5 * M * F}, [=] {
                   return Call(
                       [gate = in->random({s.B, s.T, s.F}), value = in->random({s.B, s.T, s.F})](Tape& tape) {
                         return std::vector{ops::silu_mul(tape.watch(gate), tape.watch(value))};
                       });
                 }});
  ops.push_back({"decay_complement_mul", dims({s.B, s.T, s.C}), {f * 3 * M * C}, {f * 5 * M * C}, [=] {
                   return Call([w = in->random(btc, 3), key = in->random(btc)](Tape& tape) {
                     return std::vector{ops::decay_complement_mul(tape.watch(w), tape.watch(key))};
                   });
                 }});
  // The gradient of a sum is shared, not copied: there is no backward work.
  ops.push_back({"add", dims({s.B, s.T, s.C}), {f * 3 * M * C}, {}, [=] {
                   return Call([a = in->random(btc), b = in->random(btc)](Tape& tape) {
                     return std::vector{ops::add(tape.watch(a), tape.watch(b))};
                   });
                 }});
  auto linear = [&](const char* name, int64_t from, int64_t to) {
    const double flops = 2 * M * static_cast<double>(from * to);
    const double bytes = f * (M * static_cast<double>(from + to) + static_cast<double>(from * to));
    ops.push_back({name,
                   str(to_string(Shape{s.B, s.T, from}), " to ", to),
                   {bytes, flops},
                   {2 * bytes, 2 * flops},
                   [=] {
                     return Call(
                         [x = in->random({s.B, s.T, from}), w = in->weight({to, from}, 0.05)](Tape& tape) {
                           return std::vector{ops::linear(tape.watch(x), w(tape))};
                         });
                   }});
  };
  linear("linear", s.C, s.C);
  linear("linear_ffn", s.C, s.F);
  // GoldFinch's keys from embeddings and C / 16 cached numbers a token, and their norm.
  const int64_t R = std::max<int64_t>(s.C / 16, 1);
  const double expansion = 2 * M * C * static_cast<double>(s.C + R);
  ops.push_back({"gold_keys",
                 str(dims({s.B, s.T, s.C}), " from ", s.C, " + ", R),
                 {f * M * (4 * C + static_cast<double>(R)), expansion},
                 {f * M * (6 * C + 2 * static_cast<double>(R)), 2 * expansion},
                 [=] {
                   return Call([x0 = in->random(btc), cache = in->random({s.B, s.T, R}),
                                w = in->weight({s.C, s.C + R}, 0.05)](Tape& tape) {
                     return std::vector{ops::gold_keys(tape.watch(x0), tape.watch(cache), w(tape))};
                   });
                 }});
  // What GoldFinch does for each token read so far when it writes one: the products of its keys and values.
  const int64_t P = std::max<int64_t>(s.C / 16, 64);
  ops.push_back({"gold_expand",
                 dims({s.B, s.T, s.C}),
                 {f * 2 * M * C, 2 * M * C * static_cast<double>(R + 4 * s.D + 4 * P)},
                 {},
                 [=] {
                   const ops::GoldTokens tokens = ops::gold_tokens(
                       in->ids({s.B, s.T}, s.V), in->random({1, s.V, s.C}), in->random({s.B, s.T, R}),
                       in->random({s.C, s.C + R}), Tensor(), Tensor());
                   const Shape down{s.C, P}, up{P, s.C};
                   const ops::GoldWeights weights{in->random(c),
                                                  in->random(c),
                                                  in->random(c),
                                                  in->random({s.C, 2 * s.D}),
                                                  in->random({2, s.D, s.C}),
                                                  in->random(down),
                                                  in->random(up),
                                                  in->random(down),
                                                  in->random(up),
                                                  in->random(c),
                                                  in->random(c),
                                                  in->random(c),
                                                  in->random(c)};
                   return Call([=](Tape&) {
                     ops::gold_expand(tokens, weights, 0, s.T);
                     return std::vector<Var>{};
                   });
                 }});
  const double low_rank = 2 * M * C * 5 * D;
  ops.push_back({"matmul",
                 str(dims({s.B, s.T, s.C}), " to ", 5 * s.D),
                 {f * M * (C + 5 * D), low_rank},
                 {2 * f * M * (C + 5 * D), 2 * low_rank},
                 [=] {
                   return Call([x = in->random(btc), a = in->weight({s.C, 5 * s.D}, 0.05)](Tape& tape) {
                     return std::vector{ops::matmul(tape.watch(x), a(tape))};
                   });
                 }});
  // Multiply-adds of the plain recurrence, forward 3 N^2 and backward 9 N^2 per token and head. The decays
  // are activations or a parameter.
  auto recurrence = [&](const char* name, decltype(&ops::wkv6) op, bool fixed_decay) {
    const double inputs = fixed_decay ? 3 : 4;
    ops.push_back({name,
                   dims({s.B, s.T, s.H, s.N}),
                   {f * (inputs + 1) * M * C, 0, 3 * N * N * H * M},
                   {f * (2 * inputs + 1) * M * C, 0, 9 * N * N * H * M},
                   [=] {
                     const Shape bthn{s.B, s.T, s.H, s.N}, hn{s.H, s.N};
                     std::function<Var(Tape&)> w = in->weight(hn, 3);
                     if (!fixed_decay) w = [x = in->random(bthn, 3)](Tape& tape) { return tape.watch(x); };
                     return Call([=, r = in->random(bthn), k = in->random(bthn), v = in->random(bthn),
                                  u = in->weight(hn)](Tape& tape) {
                       return std::vector{
                           op(tape.watch(r), tape.watch(k), tape.watch(v), w(tape), u(tape), {}, {}).y};
                     });
                   }});
  };
  recurrence("wkv6", ops::wkv6, false);
  recurrence("wkv5", ops::wkv5, true);
  // Forward 5 N^2; backward 14 N^2 with the states computed once more. Inputs as in the model: a and b as
  // long as a normalised key.
  ops.push_back({"wkv7",
                 dims({s.B, s.T, s.H, s.N}),
                 {f * 7 * M * C, 0, 5 * N * N * H * M},
                 {f * 13 * M * C, 0, 14 * N * N * H * M},
                 [=] {
                   const Shape bthn{s.B, s.T, s.H, s.N};
                   const double length = std::sqrt(3 / N);
                   return Call([r = in->random(bthn), w = in->random(bthn, 3), k = in->random(bthn),
                                v = in->random(bthn), a = in->random(bthn, length),
                                b = in->random(bthn, length)](Tape& tape) {
                     return std::vector{ops::wkv7(tape.watch(r), tape.watch(w), tape.watch(k), tape.watch(v),
                                                  tape.watch(a), tape.watch(b), Wkv7Decay::kSigmoid)
                                            .y};
                   });
                 }});
  ops.push_back({"rope", dims({s.B, s.T, s.H, s.N}), {f * 2 * M * C}, {f * 2 * M * C}, [=] {
                   return Call([x = in->random({s.B, s.T, s.H, s.N})](Tape& tape) {
                     return std::vector{ops::rope(tape.watch(x), {})};
                   });
                 }});
  // Two products of T (T + 1) / 2 queries and keys forward; five backward, one of them the scores again.
  const double attention = 2 * M * (static_cast<double>(s.T) + 1) / 2 * C;
  ops.push_back(
      {"attention",
       dims({s.B, s.T, s.H, s.N}),
       {f * 4 * M * C, 2 * attention},
       {f * 8 * M * C, 5 * attention},
       [=] {
         const Shape bthn{s.B, s.T, s.H, s.N};
         return Call([=, q = in->random(bthn), k = in->random(bthn), v = in->random(bthn)](Tape& tape) {
           return std::vector{ops::attention(tape.watch(q), tape.watch(k), tape.watch(v),
                                             {.scale = 1 / std::sqrt(static_cast<double>(s.N))})};
         });
       }});
  // All three products are in the forward pass; backward scales what it left.
  ops.push_back({"cross_entropy",
                 str(dims({s.B, s.T, s.C}), " to ", s.V),
                 {f * (2 * M * C + 2 * V * C), 6 * M * C * V},
                 {f * 2 * (M * C + V * C)},
                 [=] {
                   const Tensor targets = in->ids({s.B, s.T}, s.V);
                   return Call([=, x = in->random(btc), w = in->weight({s.V, s.C}, 0.05)](Tape& tape) {
                     const ops::LossOptions options{static_cast<double>(targets.numel()), 1e-4};
                     return std::vector{
                         ops::linear_cross_entropy(tape.watch(x), w(tape), targets, Tensor(), options).loss};
                   });
                 }});
  const Shape flat{s.V * s.C};
  ops.push_back({"adamw", to_string(flat), {f * 7 * V * C}, {}, [=] {
                   static constexpr auto kUpdate = RK_KERNEL(adamw_update);
                   return Call([=, p = in->random(flat), g = in->random(flat),
                                m = zeros(flat, DType::kF32, in->device()),
                                v = zeros(flat, DType::kF32, in->device())](Tape&) {
                     kUpdate(in->device(), {p, g, m, v, 0, p.numel(), 1e-4, 0.9, 0.99, 1e-8, 0.1, 1, 1});
                     return std::vector<Var>{};
                   });
                 }});
  ops.push_back({"sum_of_squares", to_string(flat), {f * V * C}, {}, [=] {
                   static constexpr auto kSquares = RK_KERNEL(sum_of_squares);
                   return Call(
                       [=, x = in->random(flat),
                        scratch = empty({squares_blocks(flat.numel())}, DType::kF64, in->device())](Tape&) {
                         double result = 0;
                         kSquares(in->device(), {x, &result, scratch});
                         return std::vector<Var>{};
                       });
                 }});
  return ops;
}

struct Times {
  std::vector<double> forward, backward;
};

// Within steps of the arena, as in training: memory comes from a replayed plan.
Times measure(const OpBench& op, Device& device, int64_t repeat) {
  const Call call = op.prepare();
  std::vector<Tensor> seeds;
  {
    Tape tape;
    for (const Var& out : call(tape)) {
      seeds.push_back(empty_like(out.value()));
      std::fill_n(seeds.back().data<float>(), seeds.back().numel(), 1.f);
    }
  }
  Times times;
  constexpr int64_t kWarm = 2;  // the step that records and the first that replays
  for (int64_t i = 0; i < kWarm + repeat; ++i) {
    device.arena().begin_step(op.name);
    {
      Tape tape;
      const double begin = steady_now();
      const std::vector<Var> outputs = call(tape);
      const double middle = steady_now();
      std::vector<std::pair<Var, Tensor>> pairs;
      for (size_t k = 0; k < outputs.size(); ++k) pairs.emplace_back(outputs[k], seeds[k]);
      if (!pairs.empty()) tape.backward(pairs);
      const double end = steady_now();
      if (i >= kWarm) {
        times.forward.push_back(middle - begin);
        times.backward.push_back(end - middle);
      }
    }
    device.arena().end_step();
  }
  return times;
}

std::vector<OpBench> chosen(std::vector<OpBench> ops, const std::vector<std::string>& names) {
  std::vector<std::string> known;
  for (const OpBench& op : ops) known.push_back(op.name);
  for (const std::string& name : names)
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      std::string list;
      for (const std::string& k : known) list += (list.empty() ? "" : ", ") + k;
      fail(ExitCode::kUsage, "BENCH-01", "'", printable(name), "': expected the name of an operation",
           config::did_you_mean(name, known), "; there are ", list);
    }
  if (!names.empty())
    std::erase_if(ops, [&](const OpBench& op) {
      return std::find(names.begin(), names.end(), op.name) == names.end();
    });
  return ops;
}

int run(const Arguments& a) {
  Sizes s{};
  s.B = a.integer("batch", 1, 4096);
  s.T = a.integer("seq-len", 1, 1 << 20);
  s.C = a.integer("hidden", 1, 1 << 16);
  s.N = a.integer("head-size", 1, 1024);
  s.F = a.integer("ffn", 1, 1 << 18);
  s.V = a.integer("vocab", 2, 1 << 20);
  s.D = a.integer("rank", 1, 4096);
  if (s.C % s.N != 0)
    fail(ExitCode::kUsage, "BENCH-02", "--hidden ", s.C, ": expected a multiple of --head-size ", s.N);
  s.H = s.C / s.N;
  const int64_t repeat = a.integer("repeat", 1, 10000);
  Device device(DeviceType::kCpu, static_cast<int>(a.integer("threads", 0, kMaxThreads)));
  const std::vector<OpBench> ops = chosen(all_ops(s, std::make_shared<Inputs>(device)), a.positional());
  const Rates rates = measure_rates(device, s);
  nlohmann::json result{
      {"isa", to_string(device.isa())},
      {"threads", device.pool().num_threads()},
      {"repeat", repeat},
      {"sizes",
       {{"B", s.B}, {"T", s.T}, {"C", s.C}, {"H", s.H}, {"N", s.N}, {"F", s.F}, {"V", s.V}, {"D", s.D}}},
      {"rates",
       {{"copy_bytes_per_s", rates.copy_bytes},
        {"blas_flops_per_s", rates.blas_flops},
        {"multiply_adds_per_s", rates.multiply_adds}}},
      {"passes", nlohmann::json::array()}};
  const bool json = a.flag("json");
  if (!json) {
    std::printf(
        "fp32, %d threads, %s, median of %lld. Measured: copy %.1f GB/s (read + write), BLAS %.0f GFLOP/s, "
        "FMA %.1f G/s.\n",
        device.pool().num_threads(), to_string(device.isa()).c_str(), static_cast<long long>(repeat),
        rates.copy_bytes / 1e9, rates.blas_flops / 1e9, rates.multiply_adds / 1e9);
    std::printf("%-15s %-30s %-9s %9s %9s %-5s %6s\n", "op", "shape", "pass", "ms", "floor ms", "by",
                "ratio");
  }
  for (const OpBench& op : ops) {
    const Times times = measure(op, device, repeat);
    auto report = [&](const char* pass, const Work& work, const std::vector<double>& seconds) {
      const double time = median(seconds);
      const Floor floor = floor_of(work, rates);
      if (floor.seconds == 0) return;  // nothing to do in this pass
      result["passes"].push_back({{"op", op.name},
                                  {"shape", op.shape},
                                  {"pass", pass},
                                  {"seconds", time},
                                  {"min_seconds", *std::min_element(seconds.begin(), seconds.end())},
                                  {"floor_seconds", floor.seconds},
                                  {"floor_by", floor.by},
                                  {"ratio", time / floor.seconds},
                                  {"bytes", work.bytes},
                                  {"flops", work.flops},
                                  {"multiply_adds", work.multiply_adds}});
      if (json) return;
      std::printf("%-15s %-30s %-9s %9.3f %9.3f %-5s %6.2f\n", op.name.c_str(), op.shape.c_str(), pass,
                  time * 1e3, floor.seconds * 1e3, floor.by, time / floor.seconds);
      std::fflush(stdout);
    };
    report("forward", op.forward, times.forward);
    report("backward", op.backward, times.backward);
  }
  if (json) std::cout << result.dump(2) << '\n';
  return 0;
}

}  // namespace

Command bench_op_command() {
  Command c;
  c.name = "op";
  c.summary = "each operation beside the floor that memory or arithmetic sets";
  c.details =
      "Runs every operation, or those named, forward and backward on random fp32 data, as a training step "
      "does. The floor is the longest of: tensors read and written once at the copy bandwidth; "
      "floating-point operations of the matrix products at the rate of BLAS; multiply-adds of the state "
      "recurrence (per token and head 3 N^2 forward and 9 N^2 backward for wkv6 and wkv5, 5 N^2 and 14 N^2 "
      "for wkv7) "
      "at the FMA rate. All three rates are measured first. A ratio below 1 means that the data stayed in "
      "cache, or that fewer multiply-adds were needed than the plain recurrence takes.\n\n"
      "cross_entropy does all three of its matrix products in the forward pass. ROOKERY_ISA chooses the "
      "instruction set.";
  c.positional = "[NAME...]";
  c.most_positional = Command::kAny;
  c.options = {{"json", "", "machine-readable output"},
               {"threads", "N", "threads; 0: all cores", "0"},
               {"repeat", "R", "measured calls", "9"},
               {"batch", "B", "sequences", "8"},
               {"seq-len", "T", "tokens of a sequence", "512"},
               {"hidden", "C", "hidden size", "512"},
               {"head-size", "N", "channels of a head; heads are C / N", "64"},
               {"ffn", "F", "width of the channel mix", "1792"},
               {"vocab", "V", "vocabulary", "8192"},
               {"rank", "D", "rank of the low-rank projections", "32"}};
  c.examples = {{"rookery bench op", "all, at the shapes of a 38M parameter Finch"},
                {"rookery bench op wkv6 linear --threads 1", "two of them on one core"}};
  c.run = run;
  return c;
}

}  // namespace rookery::cli
