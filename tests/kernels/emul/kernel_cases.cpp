// kernel_cases.cpp: the cases, each as small as its kernels' barriers allow: two tiles, two chunks, two
// warps.
#include "tests/kernels/emul/kernel_cases.h"

#include <cmath>
#include <cstring>
#include <memory>

#include "kernels/cuda/elementwise.h"
#include "kernels/emul/options.h"
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
#include "kernels/ops/token_shift/token_shift.h"
#include "kernels/ops/wkv6/wkv6.h"
#include "kernels/ops/wkv7/wkv7.h"
#include "kernels/tensor/guard.h"
#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

using In = Named<Var>;
using Vars = std::vector<Var>;

struct Input {
  const char* name;
  Shape shape;
  Uniform range = {-1, 1};
};
OpCase make_case(const std::string& name, const std::vector<Input>& inputs,
                 const std::function<Vars(const In&)>& run) {
  OpCase c(name);
  for (const Input& in : inputs) c.input(in.name, in.shape, in.range);
  c.run = run;
  return c;
}

// 1 at these places.
Values marks(int64_t count, const std::vector<int64_t>& places) {
  Values values(static_cast<size_t>(count), 0.0);
  for (const int64_t at : places) values[static_cast<size_t>(at)] = 1;
  return values;
}

constexpr int64_t kWide = 264;  // channels: more than 32 packs, so the threads of a row are several warps

OpCase activations() {
  return make_case("activations", {{"x", {3, 5, 7}}, {"value", {3, 5, 7}}}, [](const In& in) {
    return Vars{ops::tanh(in["x"]), ops::silu_mul(in["x"], in["value"])};
  });
}

OpCase attention(int64_t D, int64_t T = 40) {
  OpCase c =
      make_case(str("attention of ", T), {{"q", {1, T, 2, D}}, {"k", {1, T, 1, D}}, {"v", {1, T, 1, D}}},
                [](const In& in) {
                  return Vars{ops::attention(in["q"], in["k"], in["v"], {0.3, 0, in["starts"].value(), {}})};
                });
  c.integers("starts", {1, T}, DType::kU8, marks(T, {2, T - 5}));
  return c;
}

// In the second part of the keys no query of the second sequence sees any.
OpCase attention_in_parts(int64_t D) {
  OpCase c("attention in parts");
  const auto constant = [&](const char* name, const Shape& shape) {
    c.constant(name, shape, random_values(name, shape.numel(), {-1, 1}));
  };
  constant("q", {2, 3, 1, D}), constant("k", {2, 23, 1, D}), constant("v", {2, 23, 1, D});
  c.integers("starts", {2, 3}, DType::kU8, marks(6, {3}));
  c.run = [D](const In& in) {
    const auto part = [&](int64_t begin, int64_t count) {
      const auto keys = [&](const Tensor& x) {
        const Tensor some = empty({2, count, 1, D}, x.dtype(), x.device());
        const size_t key = static_cast<size_t>(D) * dtype_size(x.dtype());
        for (int64_t b = 0; b < 2; ++b)
          std::memcpy(some.raw() + b * count * key, x.raw() + (b * 23 + begin) * key, count * key);
        return some;
      };
      return std::pair(keys(in["k"].value()), keys(in["v"].value()));
    };
    return Vars{
        Var(ops::attention_in_parts(in["q"].value(), 0, 8, part, {0.5, 20, in["starts"].value(), Tensor()}))};
  };
  return c;
}

OpCase cross_entropy() {
  OpCase c = make_case("cross entropy", {{"x", {5, 4}}, {"weight", {300, 4}}}, [](const In& in) {
    const ops::LossOut out = ops::linear_cross_entropy(in["x"], in["weight"], in["targets"].value(),
                                                       in["mask"].value(), {4, 1e-2});
    return Vars{out.loss, out.row_loss};
  });
  c.integers("targets", {5}, DType::kI32, {0, 299, 7, 8, 31});
  c.constant("mask", {5}, {1, 1, 0, 0.5, 1});
  c.keep_f32("mask");
  return c;
}

// Another rank's logits are emulated by what it would add to sums and the bound of its largest.
OpCase cross_entropy_slice() {
  OpCase c = make_case("cross entropy of a slice", {{"x", {5, 4}}, {"weight", {300, 4}}}, [](const In& in) {
    const auto change = [](const Tensor& t, const std::function<double(double)>& to) {
      Values values = to_doubles(t);
      for (double& v : values) v = to(v);
      copy(tensor_from(std::span<const double>(values), t.shape(), t.dtype(), t.device()), t);
    };
    const ops::VocabSlice slice{
        20, [=](const Tensor& t) { change(t, [](double v) { return std::max(v, 0.5); }); },
        [=](const Tensor& t) { change(t, [](double v) { return v + 1; }); }};
    const ops::LossOut out = ops::linear_cross_entropy(in["x"], in["weight"], in["targets"].value(),
                                                       in["mask"].value(), {4, 1e-2, 0, slice});
    return Vars{out.loss, out.row_loss};
  });
  c.integers("targets", {5}, DType::kI32, {0, 319, 27, 28, 320});
  c.constant("mask", {5}, {1, 1, 0, 0.5, 1});
  c.keep_f32("mask");
  return c;
}

OpCase embedding() {
  constexpr int64_t kTokens = 300;
  OpCase c = make_case("embedding", {{"table", {7, 3}}},
                       [](const In& in) { return Vars{ops::embedding(in["ids"].value(), in["table"])}; });
  Values ids;
  for (int64_t i = 0; i < kTokens; ++i) ids.push_back(static_cast<double>(i * i % 7));
  c.integers("ids", {1, kTokens}, DType::kI32, ids);
  return c;
}

// The norm of f32 among bf16.
OpCase gold() {
  return make_case("gold", {{"x0", {1, 3, kWide}}, {"c", {1, 3, 4}}, {"w", {kWide, kWide + 4}}},
                   [](const In& in) { return Vars{ops::gold_keys(in["x0"], in["c"], in["w"])}; });
}

OpCase goose() {
  const Shape rows{1, 3, kWide}, row{kWide};
  return make_case("goose",
                   {{"y", rows},
                    {"r", rows},
                    {"k", rows},
                    {"v", rows},
                    {"gate", rows},
                    {"gamma", row},
                    {"beta", row},
                    {"r_k", {1, kWide}}},
                   [](const In& in) {
                     const ops::GooseKeys keys =
                         ops::goose_keys(in["k"], in["r"], in["gamma"], in["beta"], 1);
                     const Var value = ops::goose_value(in["v"], in["y"], in["gate"]);
                     return Vars{keys.k, keys.a, keys.b,
                                 ops::goose_output(in["y"], in["gamma"], in["beta"], in["r"], in["k"], value,
                                                   in["r_k"], in["gate"], 1e-3)};
                   });
}

OpCase linear() {
  return make_case("linear", {{"x", {65, 5}}, {"weight", {11, 5}}, {"bias", {11}}},
                   [](const In& in) { return Vars{ops::linear(in["x"], in["weight"], in["bias"])}; });
}

OpCase norms() {
  const Shape row{kWide};
  return make_case("norms", {{"x", {3, kWide}}, {"gate", {3, kWide}}, {"gamma", row}, {"beta", row}},
                   [](const In& in) {
                     return Vars{ops::layer_norm(in["x"], in["gamma"], in["beta"]),
                                 ops::group_norm(in["x"], in["gamma"], in["beta"], 3, 1e-3, in["gate"]),
                                 ops::rms_norm(in["x"], in["gamma"], 1e-5)};
                   });
}

OpCase rope() {
  return make_case("rope", {{"x", {2, 5, 3, 6}}}, [](const In& in) {
    RopeOptions adjacent;
    adjacent.pairs = RopePairs::kAdjacent;
    return Vars{ops::rope(in["x"], RopeOptions{}), ops::rope(in["x"], adjacent)};
  });
}

OpCase token_shift() {
  constexpr int64_t kTokens = 37, C = 9, R = 3;
  OpCase c = make_case("token shift",
                       {{"x", {2, kTokens, C}},
                        {"carried", {2, C}},
                        {"mu0", {C}},
                        {"mu1", {C}},
                        {"h", {2, kTokens, 2 * R}},
                        {"w2", {2, R, C}}},
                       [](const In& in) {
                         const ops::Previous previous{in["carried"], in["starts"].value()};
                         const Vars mu{in["mu0"], in["mu1"]};
                         Vars out = ops::shift_lerp(in["x"], previous, mu);
                         for (const Var& mix : ops::ddlerp(in["x"], previous, mu, in["h"], in["w2"]))
                           out.push_back(mix);
                         return out;
                       });
  c.integers("starts", {2, kTokens}, DType::kU8, marks(2 * kTokens, {3, 32, kTokens}));
  return c;
}

OpCase norm_shift() {
  constexpr int64_t kTokens = 20;
  const Shape rows{2, kTokens, kWide}, row{kWide};
  OpCase c = make_case(
      "norm shift",
      {{"x", rows}, {"delta", rows}, {"gamma", row}, {"beta", row}, {"carried", {2, kWide}}, {"mu", row}},
      [](const In& in) {
        const ops::NormShift made =
            ops::norm_shift(in["x"], in["delta"], in["gamma"], in["beta"],
                            {in["carried"], in["starts"].value()}, {Var(), in["mu"]}, true);
        Vars out{made.x, Var(made.last)};
        out.insert(out.end(), made.out.begin(), made.out.end());
        return out;
      });
  c.integers("starts", {2, kTokens}, DType::kU8, marks(2 * kTokens, {3, 16, kTokens}));
  return c;
}

// Tokens of two segments.
constexpr int64_t kTokens = kWkv6GpuSegment + 6;
static_assert(kWkv6GpuSegment == kWkv7GpuSegment && kWkv6GpuHead == kWkv7GpuHead);
OpCase wkv(const std::string& name, int64_t N, const std::vector<Input>& more,
           const std::function<ops::WkvOut(const In&)>& run) {
  const Shape rows{1, kTokens, 1, N};
  std::vector<Input> inputs{{"r", rows}, {"k", rows}, {"v", rows}, {"state0", {1, 1, N, N}}};
  inputs.insert(inputs.end(), more.begin(), more.end());
  OpCase c = make_case(name, inputs, [run](const In& in) {
    const ops::WkvOut out = run(in);
    return Vars{out.y, out.state};
  });
  c.integers("starts", {1, kTokens}, DType::kU8, marks(kTokens, {20, 33}));
  c.keep_f32("state0");
  return c;
}
OpCase wkv5(int64_t N) {
  return wkv("wkv5", N, {{"w", {1, N}, {-4, 1}}, {"u", {1, N}}}, [](const In& in) {
    return ops::wkv5(in["r"], in["k"], in["v"], in["w"], in["u"], in["state0"], in["starts"].value());
  });
}
OpCase wkv6(int64_t N) {
  return wkv("wkv6", N, {{"w", {1, kTokens, 1, N}, {-4, 1}}, {"u", {1, N}}}, [](const In& in) {
    return ops::wkv6(in["r"], in["k"], in["v"], in["w"], in["u"], in["state0"], in["starts"].value());
  });
}
OpCase wkv7(int64_t N) {
  const Shape rows{1, kTokens, 1, N};
  // As long as the keys of the model, so that the state does not grow with time.
  const double length = std::sqrt(3.0 / static_cast<double>(N));
  return wkv("wkv7", N,
             {{"w", rows, {-4, 4}}, {"a", rows, {-length, length}}, {"b", rows, {-length, length}}},
             [](const In& in) {
               const ops::Wkv7Out out = ops::wkv7(in["r"], in["w"], in["k"], in["v"], in["a"], in["b"],
                                                  Wkv7Decay::kSigmoid, in["state0"], in["starts"].value());
               return ops::WkvOut{out.y, out.state};
             });
}

// What `run` leaves in tensors of a device, and whether that is right.
KernelCase compared(const std::string& name,
                    const std::function<std::pair<bool, std::vector<Tensor>>(Device&)>& run) {
  const auto first = std::make_shared<std::vector<Values>>();
  return {name, [=] {
            const GuardWatch watch(emulator::forbid_memory);
            Device device(DeviceType::kEmul, 1);
            device.arena().guard_blocks();
            const auto [right, tensors] = run(device);
            std::vector<Values> values;
            for (const Tensor& t : tensors) values.push_back(to_doubles(t));
            if (first->empty()) *first = values;
            return right && values == *first;
          }};
}

KernelCase elementwise(DType dtype) {
  return compared("elementwise", [=](Device& device) {
    const Values numbers = {1, -2, 3, 4, 0.5, 6, 7, 8, 9, 10, 11};
    const Shape shape{11};
    const Tensor from = tensor_from(std::span<const double>(numbers), shape, dtype, device);
    std::vector<Tensor> all;
    bool right = true;
    for (const DType to_dtype : {DType::kF32, DType::kBF16}) {
      const Tensor to = empty(shape, to_dtype, device), sum = empty(shape, to_dtype, device);
      emul::convert({from, to});
      emul::sum({to, to_dtype == DType::kF32 ? from : to, sum});
      right = right && to_doubles(to) == numbers;
      for (size_t i = 0; i < numbers.size(); ++i) right = right && to_doubles(sum)[i] == 2 * numbers[i];
      all.insert(all.end(), {to, sum});
    }
    return std::pair(right, all);
  });
}

KernelCase adamw(DType dtype) {
  return compared("adamw", [=](Device& device) {
    constexpr auto kStep = RK_KERNEL_GPU(adamw_step);
    constexpr auto kSquares = RK_KERNEL_GPU(adamw_squares);
    constexpr int64_t n = 300;
    const auto random = [&](const char* name, DType type) {
      const Values values = random_values(name, n, {-1, 1});
      return tensor_from(std::span<const double>(values), {n}, type, device);
    };
    const double lr = 1e-2;
    const std::vector<AdamwRange> ranges = {{0, 100, 1, 0.1, 0}, {101, n, 2, 0, 0}};
    const Tensor grad = random("grad", dtype), state = zeros({3}, DType::kF64, device);
    const AdamwStepArgs a{random("param", DType::kF32),
                          grad,
                          zeros({n}, DType::kF32, device),
                          zeros({n}, DType::kF32, device),
                          empty({n}, DType::kBF16, device),
                          adamw_table(ranges, device),
                          state,
                          tensor_from(std::span<const double>(&lr, 1), {1}, DType::kF64, device),
                          empty({squares_blocks(n)}, DType::kF64, device),
                          0.9,
                          0.99,
                          1e-8,
                          1};
    kStep(device, a);
    double squares = 0;
    for (const double g : to_doubles(grad)) squares += g * g;
    bool right = std::abs(to_doubles(state)[0] - std::sqrt(squares)) < 1e-9;
    const Tensor sums = empty(a.table.tiles.shape(), DType::kF64, device);
    kSquares(device, {a.param, grad, a.m, a.v, a.table, state, a.lr, sums, a.beta1, a.beta2, a.eps});
    double of_params = 0, of_grads = 0, params = 0, grads = 0;
    for (size_t tile = 0; tile < 2; ++tile) {
      of_params += to_doubles(sums)[3 * tile];
      of_grads += to_doubles(sums)[3 * tile + 1];
    }
    for (size_t i = 0; i < n; ++i) {
      if (i == 100) continue;  // of no range
      params += std::pow(to_doubles(a.param)[i], 2);
      grads += std::pow(to_doubles(grad)[i], 2);
    }
    right = right && std::abs(of_params - params) < 1e-9 && std::abs(of_grads - grads) < 1e-9;
    return std::pair(right, std::vector{a.param, a.m, a.v, state, sums});
  });
}

}  // namespace

std::vector<KernelCase> head_cases(DType dtype, int64_t head) {
  std::vector<OpCase> ops = {attention(head, 70), attention_in_parts(head)};  // tiles are of up to 64 tokens
  if (head <= kWkv6GpuHead)
    for (const auto& wkv_case : {wkv5, wkv6, wkv7}) ops.push_back(wkv_case(head));
  std::vector<KernelCase> cases;
  for (const OpCase& c : ops) cases.push_back({str(c.name(), ", heads of ", head), c.on_emul(dtype)});
  return cases;
}

std::vector<KernelCase> kernel_cases(DType dtype, int64_t head) {
  std::vector<KernelCase> cases = {elementwise(dtype), adamw(dtype)};
  for (OpCase c : {activations(), attention(head), attention_in_parts(4), cross_entropy(),
                   cross_entropy_slice(), embedding(), gold(), goose(), linear(), norms(), rope(),
                   token_shift(), norm_shift(), wkv5(head), wkv6(head), wkv7(head)})
    cases.push_back({c.name(), c.on_emul(dtype)});
  // Has kernels of its own for bf16, by tiles of 64 tokens which are copied in the background.
  cases.push_back({"attention in bf16", attention(8, 70).on_emul(DType::kBF16)});
  return cases;
}

}  // namespace rookery::test
