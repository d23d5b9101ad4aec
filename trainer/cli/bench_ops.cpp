// bench_ops.cpp: one entry per operation: inputs as a model gives them, and what each pass cannot do without.
#include "trainer/cli/bench_ops.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "kernels/base/rng.h"
#include "kernels/ops/activation/activation.h"
#include "kernels/ops/adamw/adamw.h"
#include "kernels/ops/attention/attention.h"
#include "kernels/ops/cross_entropy/cross_entropy.h"
#include "kernels/ops/embedding/embedding.h"
#include "kernels/ops/gold/gold.h"
#include "kernels/ops/goose/goose.h"
#include "kernels/ops/matmul/matmul.h"
#include "kernels/ops/norm/norm.h"
#include "kernels/ops/norm/rms_norm.h"
#include "kernels/ops/rope/rope.h"
#include "kernels/ops/token_shift/norm_shift.h"
#include "kernels/ops/wkv6/wkv6.h"
#include "kernels/ops/wkv7/wkv7.h"

namespace rookery::cli {
namespace {

// Per channel and token: two for the decay, one for its running product (wkv-kernels 4).
constexpr double kDecayExponentials = 3;
constexpr int64_t kDrawn = 1 << 22;  // random numbers that a larger tensor repeats

}  // namespace

// `numbers` again and again.
Tensor Inputs::filled(const Shape& shape, DType dtype, const std::vector<double>& numbers) const {
  const Tensor t = empty(shape, dtype, device_);
  std::vector<std::byte> some(numbers.size() * dtype_size(dtype));
  for (size_t i = 0; i < numbers.size(); ++i) put_element(some.data(), dtype, i, numbers[i]);
  const Tensor flat = t.reshape({t.numel()});
  for (int64_t at = 0; at < t.numel();) {
    const int64_t count = std::min<int64_t>(static_cast<int64_t>(numbers.size()), t.numel() - at);
    upload(some.data(), flat.narrow(at, count));
    at += count;
  }
  return t;
}

Tensor Inputs::random(const Shape& shape, double scale, DType dtype) {
  const Philox philox(1, stream_++);
  std::vector<double> numbers(static_cast<size_t>(std::min(shape.numel(), kDrawn)));
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = scale * (2 * philox.uniform(i) - 1);
  return filled(shape, dtype, numbers);
}

Tensor Inputs::ones(const Shape& shape, DType dtype) const {
  return filled(shape, dtype, std::vector<double>(static_cast<size_t>(std::min(shape.numel(), kDrawn)), 1));
}

Tensor Inputs::ids(const Shape& shape, int64_t below) {
  const Philox philox(1, stream_++);
  std::vector<double> numbers(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < numbers.size(); ++i)
    numbers[i] = static_cast<double>(philox.bits(i) % static_cast<uint64_t>(below));
  return filled(shape, DType::kI32, numbers);
}

std::function<Var(Tape&)> Inputs::weight(const Shape& shape, double scale) {
  auto p = std::make_shared<Parameter>();
  p->master = random(shape, scale);
  p->grad = zeros(shape, sum_dtype(dtype_), device_);
  return [p](Tape& tape) {
    p->grad_written = false;
    return tape.leaf(*p);
  };
}

std::vector<OpBench> all_ops(const OpSizes& s, const std::shared_ptr<Inputs>& in) {
  const double f = static_cast<double>(dtype_size(in->dtype())), grad = std::max(f, 4.0),
               M = static_cast<double>(s.rows()), C = static_cast<double>(s.C);
  const double V = static_cast<double>(s.V), D = static_cast<double>(s.D);
  const double H = static_cast<double>(s.H), N = static_cast<double>(s.N), F = static_cast<double>(s.F);
  const Shape btc{s.B, s.T, s.C}, c{s.C};
  auto dims = [](std::initializer_list<int64_t> sizes) { return to_string(Shape(sizes)); };
  std::vector<OpBench> ops;

  ops.push_back({"embedding", dims({s.B, s.T, s.C}), {f * 2 * M * C}, {f * M * C + grad * V * C}, [=] {
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
  // As the time mixing of RWKV-7 begins: x and delta in, their sum and the mixes out; backward the gradients
  // of all of these and the sum in, one gradient out.
  ops.push_back({"norm_shift", dims({s.B, s.T, s.C}) + " x 6", {f * 9 * M * C}, {f * 9 * M * C}, [=] {
                   std::vector<std::function<Var(Tape&)>> mu;
                   for (int q = 0; q < 6; ++q) mu.push_back(in->weight(c));
                   return Call([=, x = in->random(btc), delta = in->random(btc), gamma = in->weight(c),
                                beta = in->weight(c)](Tape& tape) {
                     std::vector<Var> mix;
                     for (const auto& m : mu) mix.push_back(m(tape));
                     const ops::NormShift made =
                         ops::norm_shift(tape.watch(x), tape.watch(delta), gamma(tape), beta(tape), {}, mix);
                     std::vector<Var> out = made.out;
                     out.push_back(made.x);
                     return out;
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
  auto element_wise = [&](const char* name, const Shape& shape, Var (*op)(const Var&), double exponentials) {
    const double n = static_cast<double>(shape.numel());
    ops.push_back({name,
                   to_string(shape),
                   {.bytes = f * 2 * n, .exponentials = exponentials * n},
                   {.bytes = f * 3 * n},
                   [=] {
                     return Call(
                         [=, x = in->random(shape)](Tape& tape) { return std::vector{op(tape.watch(x))}; });
                   }});
  };
  element_wise("tanh", {s.B, s.T, 5 * s.D}, ops::tanh, 1);
  element_wise("relu_sq", {s.B, s.T, s.F}, ops::relu_sq, 0);
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
  auto linear = [&](const char* name, int64_t from, int64_t to, bool bias) {
    const double flops = 2 * M * static_cast<double>(from * to);
    const double rows = f * M * static_cast<double>(from + to), weight = static_cast<double>(from * to);
    ops.push_back({name,
                   str(to_string(Shape{s.B, s.T, from}), " to ", to, bias ? " + bias" : ""),
                   {rows + f * weight, flops},
                   {2 * rows + (f + grad) * weight, 2 * flops},
                   [=] {
                     const auto b = bias ? in->weight({to}) : [](Tape&) { return Var(); };
                     return Call(
                         [b, x = in->random({s.B, s.T, from}), w = in->weight({to, from}, 0.05)](Tape& tape) {
                           return std::vector{ops::linear(tape.watch(x), w(tape), b(tape))};
                         });
                   }});
  };
  linear("linear", s.C, s.C, false);
  linear("linear_bias", s.C, s.C, true);
  linear("linear_ffn", s.C, s.F, false);
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
    const double inputs = fixed_decay ? 3 : 4, decays = fixed_decay ? 0 : kDecayExponentials * M * C;
    ops.push_back({name,
                   dims({s.B, s.T, s.H, s.N}),
                   {f * (inputs + 1) * M * C, 0, 3 * N * N * H * M, decays},
                   {f * (2 * inputs + 1) * M * C, 0, 9 * N * N * H * M, decays},
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
                 {f * 7 * M * C, 0, 5 * N * N * H * M, kDecayExponentials * M * C},
                 {f * 13 * M * C, 0, 14 * N * N * H * M, kDecayExponentials * M * C},
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
  const double scores = M * (static_cast<double>(s.T) + 1) / 2 * H, attention = 2 * scores * N;
  ops.push_back(
      {"attention",
       dims({s.B, s.T, s.H, s.N}),
       {f * 4 * M * C, 2 * attention, 0, scores},
       {f * 8 * M * C, 5 * attention, 0, scores},
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
                 {f * (2 * M * C + V * C) + grad * V * C, 6 * M * C * V, 0, M * V},
                 {2 * (f * M * C + grad * V * C)},
                 [=] {
                   const Tensor targets = in->ids({s.B, s.T}, s.V);
                   return Call([=, x = in->random(btc), w = in->weight({s.V, s.C}, 0.05)](Tape& tape) {
                     const ops::LossOptions options{static_cast<double>(targets.numel()), 1e-4};
                     return std::vector{
                         ops::linear_cross_entropy(tape.watch(x), w(tape), targets, Tensor(), options).loss};
                   });
                 }});
  // As one of two ranks of the tensor axis computes it, without their reductions.
  ops.push_back({"cross_entropy_slice",
                 str(dims({s.B, s.T, s.C}), " to half of ", s.V),
                 {f * (2 * M * C + V / 2 * C) + grad * V / 2 * C, 3 * M * C * V, 0, M * V / 2},
                 {2 * (f * M * C + grad * V / 2 * C)},
                 [=] {
                   const Tensor targets = in->ids({s.B, s.T}, s.V);
                   return Call([=, x = in->random(btc), w = in->weight({s.V / 2, s.C}, 0.05)](Tape& tape) {
                     ops::LossOptions options{static_cast<double>(targets.numel()), 1e-4};
                     options.slice = {0, [](const Tensor&) {}, [](const Tensor&) {}};
                     return std::vector{
                         ops::linear_cross_entropy(tape.watch(x), w(tape), targets, Tensor(), options).loss};
                   });
                 }});
  const Shape flat{s.P};
  const double params = static_cast<double>(s.P);
  if (in->device().target() == DeviceType::kCpu) {
    ops.push_back({"adamw", to_string(flat), {4 * 7 * params}, {}, [=] {
                     static constexpr auto kUpdate = RK_KERNEL(adamw_update);
                     return Call([=, p = in->random(flat), g = in->random(flat),
                                  m = zeros(flat, DType::kF32, in->device()),
                                  v = zeros(flat, DType::kF32, in->device())](Tape&) {
                       kUpdate(in->device(), {p, g, m, v, 0, p.numel(), 1e-4, 0.9, 0.99, 1e-8, 0.1, 1, 1});
                       return std::vector<Var>{};
                     });
                   }});
    ops.push_back({"sum_of_squares", to_string(flat), {4 * params}, {}, [=] {
                     static constexpr auto kSquares = RK_KERNEL(sum_of_squares);
                     return Call(
                         [=, x = in->random(flat),
                          scratch = empty({squares_blocks(flat.numel())}, DType::kF64, in->device())](Tape&) {
                           double result = 0;
                           kSquares(in->device(), {x, &result, scratch});
                           return std::vector<Var>{};
                         });
                   }});
  } else {
    // What the optimizer holds, and its table of one range.
    auto optimizer = [=](auto&& launch) {
      Device& device = in->device();
      const AdamwRange all{0, s.P, 1, 0.1, 0};
      return Call([=, &device, table = adamw_table(std::span(&all, 1), device),
                   p = in->random(flat, 1, DType::kF32), g = in->random(flat, 1, DType::kF32),
                   m = zeros(flat, DType::kF32, device), v = zeros(flat, DType::kF32, device),
                   state = in->ones({3}, DType::kF64), lr = zeros({1}, DType::kF64, device)](Tape&) {
        launch(device, table, p, g, m, v, state, lr);
        return std::vector<Var>{};
      });
    };
    // Read: parameter, both moments, and the gradient twice, for its norm too; written: all but the gradient,
    // and the copy that the model computes with.
    ops.push_back(
        {"adamw", to_string(flat), {(4 * 8 + 2) * params}, {}, [=] {
           static constexpr auto kStep = RK_KERNEL_GPU(adamw_step);
           return optimizer([weights = empty(flat, DType::kBF16, in->device()),
                             scratch = empty({squares_blocks(s.P)}, DType::kF64, in->device())](
                                Device& device, const AdamwTable& table, auto&... tensors) {
             const auto& [p, g, m, v, state, lr] = std::tie(tensors...);
             kStep(device, {p, g, m, v, weights, table, state, lr, scratch, 0.9, 0.99, 1e-8, 1, {}});
           });
         }});
    // The norms that log.norms_every_steps asks for.
    ops.push_back({"adamw_norms", to_string(flat), {4 * 4 * params}, {}, [=] {
                     static constexpr auto kNorms = RK_KERNEL_GPU(adamw_squares);
                     return optimizer([sums = empty({squares_blocks(s.P), 3}, DType::kF64, in->device())](
                                          Device& device, const AdamwTable& table, auto&... tensors) {
                       const auto& [p, g, m, v, state, lr] = std::tie(tensors...);
                       kNorms(device, {p, g, m, v, table, state, lr, sums, 0.9, 0.99, 1e-8});
                     });
                   }});
  }
  return ops;
}

}  // namespace rookery::cli
