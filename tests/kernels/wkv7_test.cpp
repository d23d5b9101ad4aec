// wkv7_test.cpp: ops::wkv7 against the recurrence of the RWKV-7 paper, one token at a time, for both forms of
// the decay, with and without an initial state and document starts.
#include "kernels/ops/wkv7/wkv7.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

struct Size {
  int64_t B, T, H, N;
  Shape rows() const { return {B, T, H, N}; }
  Shape states() const { return {B, H, N, N}; }
};

double decay_of(double w, Wkv7Decay kind) {
  if (kind == Wkv7Decay::kExpExp) return std::exp(-std::exp(w));
  return std::exp(-std::exp(-0.5) / (1 + std::exp(-w)));
}

// {y, state}: S <- S diag(w) + (S a) b^T + v k^T, y = S r; S [value, key].
Outputs recurrence(const Named<Values>& in, const Size& s, Wkv7Decay kind) {
  const Values &r = in["r"], &w = in["w"], &k = in["k"], &v = in["v"], &a = in["a"], &b = in["b"];
  const bool starts = in.items.count("doc_start") > 0, with_state = in.items.count("state0") > 0;
  const int64_t N = s.N;
  Outputs out{Values(r.size()), Values(static_cast<size_t>(s.B * s.H * N * N))};
  for (int64_t bh = 0; bh < s.B * s.H; ++bh) {
    Values S(static_cast<size_t>(N * N), 0.0);
    if (with_state) S.assign(&in["state0"][bh * N * N], &in["state0"][bh * N * N] + N * N);
    for (int64_t t = 0; t < s.T; ++t) {
      if (starts && in["doc_start"][bh / s.H * s.T + t] != 0) S.assign(S.size(), 0.0);
      const int64_t at = ((bh / s.H * s.T + t) * s.H + bh % s.H) * N;
      Values decay;
      for (int64_t j = 0; j < N; ++j) decay.push_back(decay_of(w[at + j], kind));
      for (int64_t i = 0; i < N; ++i) {
        double read = 0, y = 0;
        for (int64_t j = 0; j < N; ++j) read += S[i * N + j] * a[at + j];
        for (int64_t j = 0; j < N; ++j) {
          double& e = S[i * N + j];
          e = e * decay[j] + read * b[at + j] + v[at + i] * k[at + j];
          y += e * r[at + j];
        }
        out[0][at + i] = y;
      }
    }
    std::copy(S.begin(), S.end(), out[1].begin() + bh * N * N);
  }
  return out;
}

std::vector<Var> call(const Named<Var>& in, Wkv7Decay kind) {
  const auto optional = [&](const char* name) { return in.items.count(name) ? in[name] : Var(); };
  const ops::Wkv7Out out = ops::wkv7(in["r"], in["w"], in["k"], in["v"], in["a"], in["b"], kind,
                                     optional("state0"), optional("doc_start").value());
  return {out.y, out.state};
}

OpCase make_case(const std::string& name, const Size& s, Wkv7Decay kind, Uniform w) {
  OpCase c(name);
  for (const char* input : {"r", "k", "v"}) c.input(input, s.rows(), {-1, 1});
  c.input("w", s.rows(), w);
  // As long as the keys of the model, so that the state does not grow with time.
  const double length = std::sqrt(3.0 / static_cast<double>(s.N));
  c.input("a", s.rows(), {-length, length});
  c.input("b", s.rows(), {-length, length});
  c.bf16_outputs = {DType::kBF16, DType::kF32};
  c.run = [=](const Named<Var>& in) { return call(in, kind); };
  c.reference = [=](const Named<Values>& in) { return recurrence(in, s, kind); };
  c.bits_depend_on_threads = s.B * s.H < 3 && s.N > kWkv7Pad;  // strips of value columns
  return c;
}

void with_state(OpCase& c, const Size& s) {
  c.input("state0", s.states(), {-1, 1});
  c.keep_f32("state0");
}

void with_starts(OpCase& c, const Size& s, const std::vector<int64_t>& starts) {
  Values doc_start(static_cast<size_t>(s.B * s.T), 0.0);
  for (const int64_t t : starts)
    if (t < s.T) doc_start[t] = 1;
  if (s.B > 1) doc_start[s.T + s.T / 2] = 1;  // another place in the second sequence
  c.integers("doc_start", {s.B, s.T}, DType::kU8, doc_start);
}

TEST(Wkv7, EqualsTheRecurrence) {
  for (const Size& s :
       {Size{1, 1, 1, 64}, {2, 3, 2, 32}, {1, 37, 2, 20}, {1, 33, 1, 64}, {1, 18, 1, 100}, {2, 16, 3, 5}})
    for (const bool state : {false, true}) {
      const Wkv7Decay kind = state == (s.T % 2 == 0) ? Wkv7Decay::kSigmoid : Wkv7Decay::kExpExp;
      OpCase c = make_case(str("wkv7 B", s.B, " T", s.T, " H", s.H, " N", s.N, state ? " state0" : "",
                               kind == Wkv7Decay::kSigmoid ? " sigmoid" : " exp(exp)"),
                           s, kind, {-4, 1});
      if (state) with_state(c, s);
      c.check();
    }
}

TEST(Wkv7, DocumentStarts) {
  const Size s{2, 36, 1, 12};
  std::vector<int64_t> all;
  for (int64_t t = 0; t < s.T; ++t) all.push_back(t);
  for (const std::vector<int64_t>& starts :
       {std::vector<int64_t>{0}, {1}, {15}, {16}, {17}, {35}, {3, 4, 20, 31, 32}, all}) {
    OpCase c =
        make_case(str("wkv7 starts ", starts.front(), "..", starts.back()), s, Wkv7Decay::kSigmoid, {-4, 4});
    with_state(c, s);
    with_starts(c, s, starts);
    c.check();
  }
}

// Several groups of heads, several segments.
TEST(Wkv7, LongSequences) {
  for (const Size& s : {Size{1, kWkv7Segment + 1, 1, 4}, {1, kWkv7Segment + 4, 17, 2}}) {
    OpCase c = make_case(str("wkv7 T", s.T, " H", s.H), s, Wkv7Decay::kSigmoid, {-4, 4});
    with_state(c, s);
    with_starts(c, s, {kWkv7Segment / 2});
    c.gradient_error = 1e-6;  // of single entries, beside outputs that depend on thousands of others
    c.check();
  }
}

// From a decay close to 1 to one that leaves nothing, mixed in every channel.
TEST(Wkv7, AnyDecay) {
  for (const Uniform w : {Uniform{-6, -5}, {-9, 9}, {1, 5}}) {
    const Size s{1, 37, 2, 16};
    OpCase c = make_case(str("wkv7 w from ", w.low, " to ", w.high), s, Wkv7Decay::kExpExp, w);
    with_state(c, s);
    c.step = w.high < 0 ? 2e-3 : 2e-4;  // a strong decay bends within a small step
    c.gradient_error = 1e-6;
    c.check();
  }
}

// One key again and again, fully replaced each time, hardly any decay: all that is read back cancels.
TEST(Wkv7, RepeatedKey) {
  const Size s{1, 50, 1, 64};
  const Values direction = random_values("direction", s.N, {-1, 1});
  double length = 0;
  for (const double x : direction) length += x * x;
  Values k, a, b;
  for (int64_t i = 0; i < s.T * s.N; ++i) {
    k.push_back(static_cast<float>(direction[i % s.N]));
    b.push_back(static_cast<float>(direction[i % s.N] / std::sqrt(length)));
    a.push_back(-b.back());
  }
  OpCase c("wkv7 repeated key");
  c.input("r", s.rows(), {-1, 1});
  c.input("w", s.rows(), {-9, -8});
  c.input("v", s.rows(), {-1, 1});
  with_state(c, s);
  c.constant("k", s.rows(), k), c.constant("a", s.rows(), a), c.constant("b", s.rows(), b);
  c.run = [=](const Named<Var>& in) { return call(in, Wkv7Decay::kSigmoid); };
  c.reference = [=](const Named<Values>& in) { return recurrence(in, s, Wkv7Decay::kSigmoid); };
  c.bf16_outputs = {DType::kBF16, DType::kF32};
  c.bits_depend_on_threads = true;
  c.f32_nmse = 4e-12;       // p and dx of a GPU's chunks are found by substitution
  c.gradient_error = 1e-5;  // of w: so small beside the outputs that their rounding shows
  c.check();
}

struct Rows {
  std::vector<Values> inputs;  // r, w, k, v, a, b of [T, H, N]
  Values dy;
};

struct Results {
  Values y, state;
  std::vector<Values> gradients;  // of the inputs, then of state0
};

Results run(const Rows& rows, int64_t T, int64_t N, const Values& state0, const Values& dstate,
            const Values& doc_start, CpuIsa isa) {
  Device device(DeviceType::kCpu, 1, isa);
  const Shape shape{1, T, 1, N}, states{1, 1, N, N};
  const auto tensor = [&](const Values& x, const Shape& of, DType dtype = DType::kF32) {
    return tensor_from(std::span<const double>(x), of, dtype, device);
  };
  Tape tape;
  std::vector<Var> in;
  for (const Values& x : rows.inputs) in.push_back(tape.watch(tensor(x, shape)));
  in.push_back(state0.empty() ? Var() : tape.watch(tensor(state0, states)));
  const ops::Wkv7Out out = ops::wkv7(in[0], in[1], in[2], in[3], in[4], in[5], Wkv7Decay::kSigmoid, in[6],
                                     doc_start.empty() ? Tensor() : tensor(doc_start, {1, T}, DType::kU8));
  const std::pair<Var, Tensor> seeds[] = {{out.y, tensor(rows.dy, shape)},
                                          {out.state, tensor(dstate, states)}};
  tape.backward(seeds);
  Results result{to_doubles(out.y.value()), to_doubles(out.state.value()), {}};
  for (const Var& x : in) result.gradients.push_back(x.defined() ? to_doubles(tape.grad(x)) : Values());
  return result;
}

Rows random_rows(int64_t T, int64_t N) {
  Rows rows;
  const double length = std::sqrt(3.0 / static_cast<double>(N));
  for (const char* name : {"r", "w", "k", "v", "a", "b"})
    rows.inputs.push_back(
        random_values(name, T * N, name[0] > 'b' ? Uniform{-1, 1} : Uniform{-length, length}));
  rows.dy = random_values("dy", T * N, {-1, 1});
  return rows;
}
Values slice(const Values& x, int64_t begin, int64_t end) { return {x.begin() + begin, x.begin() + end}; }
Rows part(const Rows& rows, int64_t begin, int64_t end, int64_t N) {
  Rows p;
  for (const Values& x : rows.inputs) p.inputs.push_back(slice(x, begin * N, end * N));
  p.dy = slice(rows.dy, begin * N, end * N);
  return p;
}
Values joined(Values a, const Values& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// Handing the state on and its gradient back gives the bits of one call, wherever the cut; so does packing
// two documents in one sequence against running them alone.
TEST(Wkv7, CutsChangeNoBits) {
  constexpr int64_t T = kWkv7Segment + 70, N = 64;
  const Rows rows = random_rows(T, N);
  const Values state0 = random_values("state0", N * N, {-1, 1}),
               dstate = random_values("dstate", N * N, {-1, 1}), none;
  for (const TestDevice& device : cpu_devices()) {
    const CpuIsa isa = device.make(1)->isa();
    for (const int64_t cut : {int64_t{1}, int64_t{33}, int64_t{64}, kWkv7Segment - 1, kWkv7Segment, T - 1}) {
      SCOPED_TRACE(str(device.name, ", cut at ", cut));
      const Rows first = part(rows, 0, cut, N), second = part(rows, cut, T, N);
      const auto expect_equal = [&](const Results& one, const Results& a, const Results& b) {
        EXPECT_EQ(joined(a.y, b.y), one.y);
        EXPECT_EQ(b.state, one.state);
        for (size_t i = 0; i < 6; ++i)
          EXPECT_EQ(joined(a.gradients[i], b.gradients[i]), one.gradients[i]) << "input " << i;
        EXPECT_EQ(a.gradients[6], one.gradients[6]);
      };
      const Values between = run(first, cut, N, state0, dstate, none, isa).state;
      const Results carried = run(second, T - cut, N, between, dstate, none, isa);
      expect_equal(run(rows, T, N, state0, dstate, none, isa),
                   run(first, cut, N, state0, carried.gradients[6], none, isa), carried);
      Values doc_start(T, 0.0);
      doc_start[cut] = 1;
      expect_equal(run(rows, T, N, state0, dstate, doc_start, isa),
                   run(first, cut, N, state0, Values(N * N, 0.0), none, isa),
                   run(second, T - cut, N, none, dstate, none, isa));
    }
  }
}

// exp(w) overflows or vanishes; sigmoid(w) is 0 or 1: the decay is at its end and its gradient 0.
TEST(Wkv7, RawDecayBeyondExp) {
  for (const TestDevice& test_device : cpu_devices())
    for (const Wkv7Decay kind : {Wkv7Decay::kSigmoid, Wkv7Decay::kExpExp}) {
      const auto device = test_device.make(1);
      const Size s{1, 5, 1, 32};
      const auto tensor = [&](const char* name) {
        const Values x = random_values(name, s.T * s.N, {-0.3, 0.3});
        return Var(tensor_from(std::span<const double>(x), s.rows(), DType::kF32, *device));
      };
      Values raw;
      for (int64_t i = 0; i < s.T * s.N; ++i) raw.push_back(i % 2 ? 1e30 : -1e30);
      Tape tape;
      const Var w = tape.watch(tensor_from(std::span<const double>(raw), s.rows(), DType::kF32, *device));
      const Var v = tensor("v");
      const ops::Wkv7Out out = ops::wkv7(tensor("r"), w, tensor("k"), v, tensor("a"), tensor("b"), kind);
      tape.backward(out.y, &v.value());
      Named<Values> in;
      for (const char* name : {"r", "k", "v", "a", "b"})
        in.items[name] = random_values(name, s.T * s.N, {-0.3, 0.3});
      in.items["w"] = raw;
      EXPECT_LE(nmse(to_doubles(out.y.value()), recurrence(in, s, kind)[0]), 1e-12);
      for (const double g : to_doubles(tape.grad(w))) EXPECT_EQ(g, 0.0);
    }
}

TEST(Wkv7, NanIsNotHidden) {
  Rows rows = random_rows(9, 32);
  rows.inputs[1][4 * 32 + 7] = std::nan("");
  for (const TestDevice& device : cpu_devices()) {
    const Results found = run(rows, 9, 32, {}, Values(32 * 32, 0.0), {}, device.make(1)->isa());
    EXPECT_TRUE(std::isnan(found.y[8 * 32]));
    EXPECT_TRUE(std::isnan(found.gradients[1][4 * 32 + 7]));
  }
}

TEST(Wkv7, RefusesWrongShapes) {
  Device device(DeviceType::kCpu, 1);
  const auto x = [&](int64_t N) { return Var(zeros({1, 4, 2, N}, DType::kF32, device)); };
  const auto wkv7 = [&](int64_t b, const Tensor& state0, const Tensor& doc_start) {
    ops::wkv7(x(32), x(32), x(32), x(32), x(32), x(b), Wkv7Decay::kSigmoid, state0, doc_start);
  };
  EXPECT_THROW(wkv7(31, {}, {}), Error);
  EXPECT_THROW(wkv7(32, zeros({1, 2, 32}, DType::kF32, device), {}), Error);
  EXPECT_THROW(wkv7(32, {}, zeros({1, 5}, DType::kU8, device)), Error);
}

}  // namespace
}  // namespace rookery::test
