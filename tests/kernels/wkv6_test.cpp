// wkv6_test.cpp: ops::wkv6 against the token-by-token recurrence in double (tests/support/wkv6_ref.h): in
// float and double in every instruction set that the processor has, in float and bf16 by the GPU's kernels on
// the emulator.
#include "kernels/ops/wkv6/wkv6.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#ifdef ROOKERY_HAVE_EMUL
#include "kernels/emul/options.h"
#endif
#include "tests/support/op_case.h"
#include "tests/support/wkv6_ref.h"

namespace rookery {
namespace {

using testing::Wkv6Ref;
using Values = std::vector<double>;

std::vector<CpuIsa> present_isas() {
  std::vector<CpuIsa> isas;
  for (CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (cpu_isa_available(isa)) isas.push_back(isa);
  }
  return isas;
}

// All results of one call, as doubles.
struct Results {
  Values y, state, dr, dk, dv, dw, du, dstate0;
};
struct Named {
  const char* name;
  Values Results::*values;
};
constexpr Named kResults[] = {{"y", &Results::y},   {"state", &Results::state},    {"dr", &Results::dr},
                              {"dk", &Results::dk}, {"dv", &Results::dv},          {"dw", &Results::dw},
                              {"du", &Results::du}, {"dstate0", &Results::dstate0}};

// A case: inputs, and the gradients of its two outputs. All values are floats, so both precisions see the
// same.
struct Case {
  Wkv6Ref ref;
  Values dy, dstate;
};

using Decay = std::function<double(std::mt19937_64&, int64_t t, int64_t i)>;
double typical_decay(std::mt19937_64& rng, int64_t, int64_t) {
  return std::normal_distribution<double>(-2.0, 1.5)(rng);
}

Case make_case(int64_t B, int64_t T, int64_t H, int64_t N, bool with_state,
               const Decay& decay = typical_decay) {
  std::mt19937_64 rng(uint64_t(B * 1000003 + T * 1009 + H * 31 + N));
  std::normal_distribution<double> normal;
  const auto draw = [&](int64_t n) {
    Values x(n);
    for (double& e : x) e = double(float(normal(rng)));
    return x;
  };
  Case c{{B,
          T,
          H,
          N,
          draw(B * T * H * N),
          draw(B * T * H * N),
          draw(B * T * H * N),
          {},
          draw(H * N),
          {},
          {},
          {},
          {},
          {},
          {},
          {},
          {},
          {},
          {}},
         draw(B * T * H * N),
         draw(B * H * N * N)};
  for (int64_t x = 0; x < B * T * H * N; ++x) {
    c.ref.w.push_back(double(float(decay(rng, x / (H * N) % T, x % N))));
  }
  if (with_state) c.ref.state0 = draw(B * H * N * N);
  return c;
}

Results reference(Case c) {
  c.ref.forward();
  c.ref.backward(c.dy, c.dstate);
  Wkv6Ref& x = c.ref;
  return {x.y, x.state, x.dr, x.dk, x.dv, x.dw, x.du, x.dstate0};
}

Results run(const Case& c, DType dtype, Device& device) {
  const DType state_dtype = dtype == DType::kBF16 ? DType::kF32 : dtype;
  const Wkv6Ref& x = c.ref;
  const Shape rows{x.B, x.T, x.H, x.N}, states{x.B, x.H, x.N, x.N};
  Tape tape;
  const auto watch = [&](const Values& values, const Shape& shape) {
    return tape.watch(tensor_from<double>(values, shape, shape == states ? state_dtype : dtype, device));
  };
  const Var r = watch(x.r, rows), k = watch(x.k, rows), v = watch(x.v, rows), w = watch(x.w, rows),
            u = watch(x.u, {x.H, x.N}), state0 = x.state0.empty() ? Var() : watch(x.state0, states);
  const Tensor doc_start =
      x.doc_start.empty() ? Tensor() : tensor_from<uint8_t>(x.doc_start, {x.B, x.T}, DType::kU8, device);
  const ops::WkvOut out = ops::wkv6(r, k, v, w, u, state0, doc_start);
  const std::pair<Var, Tensor> seeds[] = {
      {out.y, tensor_from<double>(c.dy, rows, dtype, device)},
      {out.state, tensor_from<double>(c.dstate, states, state_dtype, device)}};
  tape.backward(seeds);
  const auto grad = [&](const Var& input) { return to_doubles(tape.grad(input)); };
  return {to_doubles(out.y.value()),
          to_doubles(out.state.value()),
          grad(r),
          grad(k),
          grad(v),
          grad(w),
          grad(u),
          state0.defined() ? grad(state0) : Values()};
}

Results run(const Case& c, DType dtype, CpuIsa isa, int threads = 2) {
  Device device(DeviceType::kCpu, threads, isa);
  return run(c, dtype, device);
}

// Root of the summed squares of the differences, over that of `expected`.
double relative_error(const Values& found, const Values& expected) {
  double error = 0, size = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    error += (found[i] - expected[i]) * (found[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return size > 0 ? std::sqrt(error / size) : std::sqrt(error);
}

void expect_close(const Results& found, const Results& expected, double bound, const std::string& where) {
  for (const Named& result : kResults) {
    const Values &f = found.*result.values, &e = expected.*result.values;
    if (f.empty()) continue;
    ASSERT_EQ(f.size(), e.size());
    EXPECT_LE(relative_error(f, e), bound) << result.name << ", " << where;  // false for NaN
  }
}

bool same_bits(const Values& a, const Values& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}
void expect_same(const Results& a, const Results& b, const std::string& where) {
  for (const Named& result : kResults)
    EXPECT_TRUE(same_bits(a.*result.values, b.*result.values)) << result.name << ", " << where;
}

// By the GPU's kernels: on a GPU where there is one, and emulated in several orders of their threads. In bf16
// from inputs rounded to it.
void check_on_gpus(const Case& c, const Results& expected, DType dtype, double bound,
                   const std::string& what) {
  for (const test::TestDevice& test_device : test::op_case_devices()) {
    if (test_device.type == DeviceType::kCpu) continue;
    Results first;
    auto check_run = [&](const std::string& where) {
      const auto device = test_device.make(1);
      const Results found = run(c, dtype, *device);
      if (first.y.empty()) first = found;
      expect_close(found, expected, bound, where);
      expect_same(found, first, where);
    };
    const std::string where = str(what, ", ", test_device.name, ", ", dtype);
    if (test_device.type == DeviceType::kCuda) {
      check_run(where);
      check_run(where + ", again");
    }
#ifdef ROOKERY_HAVE_EMUL
    if (test_device.type == DeviceType::kEmul)
      for (const auto order : {emulator::Order::kAscending, emulator::Order::kRandom}) {
        const emulator::ScopedOptions options(
            {.order = order, .shuffle_blocks = true, .races = order == emulator::Order::kAscending});
        check_run(str(where, ", ", order));
      }
#endif
  }
}
Case rounded_to_bf16(Case c) {
  Wkv6Ref& x = c.ref;
  for (Values* values : {&x.r, &x.k, &x.v, &x.w, &x.u, &c.dy})
    for (double& e : *values) e = static_cast<float>(bf16(static_cast<float>(e)));
  return c;
}

// On all devices, in all their precisions.
void check(const Case& c, const std::string& what, double bound_f32 = 5e-6) {
  const Results expected = reference(c);
  for (CpuIsa isa : present_isas()) {
    const std::string where = str(what, ", ", isa);
    expect_close(run(c, DType::kF64, isa), expected, 1e-13, where + ", f64");
    expect_close(run(c, DType::kF32, isa), expected, bound_f32, where + ", f32");
  }
  if (c.ref.N > kWkv6GpuHead) return;
  check_on_gpus(c, expected, DType::kF32, bound_f32, what);
  const Case rounded = rounded_to_bf16(c);
  check_on_gpus(rounded, reference(rounded), DType::kBF16, 4e-3, what);
}

TEST(Wkv6, EqualsTheRecurrence) {
  for (const auto [B, T, H, N] : std::vector<std::array<int64_t, 4>>{{1, 1, 1, 64},
                                                                     {2, 3, 2, 32},
                                                                     {1, 65, 2, 20},
                                                                     {1, 300, 1, 64},
                                                                     {2, 37, 3, 32},
                                                                     {1, 18, 1, 128},
                                                                     {1, 16, 3, 5},
                                                                     {1, 33, 1, 100}}) {
    for (bool with_state : {false, true}) {
      check(make_case(B, T, H, N, with_state),
            str("B", B, " T", T, " H", H, " N", N, with_state ? " with state0" : ""));
    }
  }
}

// Central differences of order 4 on a random projection of y and the final state, for every input.
TEST(Wkv6, NumericalGradients) {
  Case c = make_case(1, 7, 2, 3, true);
  c.ref.doc_start = {0, 0, 0, 0, 0, 1, 0};
  const Results found = run(c, DType::kF64, best_cpu_isa());
  const auto loss = [&] {
    const Results out = run(c, DType::kF64, best_cpu_isa());
    double sum = 0;
    for (size_t i = 0; i < out.y.size(); ++i) sum += out.y[i] * c.dy[i];
    for (size_t i = 0; i < out.state.size(); ++i) sum += out.state[i] * c.dstate[i];
    return sum;
  };
  const std::pair<Values Wkv6Ref::*, Values Results::*> inputs[] = {
      {&Wkv6Ref::r, &Results::dr}, {&Wkv6Ref::k, &Results::dk}, {&Wkv6Ref::v, &Results::dv},
      {&Wkv6Ref::w, &Results::dw}, {&Wkv6Ref::u, &Results::du}, {&Wkv6Ref::state0, &Results::dstate0}};
  constexpr double h = 2e-3;
  for (const auto& [input, gradient] : inputs) {
    Values numerical;
    for (double& x : c.ref.*input) {
      const double x0 = x;
      const auto at = [&](double step) { return x = x0 + step, loss(); };
      numerical.push_back((8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h));
      x = x0;
    }
    EXPECT_LE(relative_error(found.*gradient, numerical), 1e-9);
  }
}

TEST(Wkv6, DocumentStarts) {
  const auto with_starts = [](const std::vector<int64_t>& starts) {
    Case c = make_case(2, 50, 1, 32, true);
    c.ref.doc_start.assign(100, 0);
    for (int64_t t : starts) c.ref.doc_start[t] = 1;
    if (!starts.empty()) c.ref.doc_start[50 + starts.back() / 2] = 1;  // another place in the second row
    return c;
  };
  for (int64_t t : {0, 1, 3, 4, 5, 15, 16, 17, 31, 32, 33, 49}) check(with_starts({t}), str("start at ", t));
  std::vector<int64_t> all(50), every7;
  for (int64_t t = 0; t < 50; ++t) all[t] = t;
  for (int64_t t = 0; t < 50; t += 7) every7.push_back(t);
  check(with_starts(all), "start at every token");
  check(with_starts(every7), "start at every 7th token");
  check(with_starts({10, 11}), "document of one token");
}

// Rows [begin, end) of a case with B = 1, as a case of its own.
Case part(const Case& c, int64_t begin, int64_t end) {
  Case p = c;
  const int64_t row = c.ref.H * c.ref.N;
  p.ref.T = end - begin;
  const auto cut = [&](Values& x, const Values& from) {
    x.assign(from.begin() + begin * row, from.begin() + end * row);
  };
  cut(p.ref.r, c.ref.r), cut(p.ref.k, c.ref.k), cut(p.ref.v, c.ref.v), cut(p.ref.w, c.ref.w), cut(p.dy, c.dy);
  p.ref.doc_start.clear();
  return p;
}
Values joined(Values a, const Values& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(Wkv6, PackedDocumentsEqualSeparateOnes) {
  for (DType dtype : {DType::kF32, DType::kF64}) {
    for (int64_t cut : {16, 48, 15, 17}) {
      Case whole = make_case(1, 70, 2, 64, true);
      whole.ref.doc_start.assign(70, 0);
      whole.ref.doc_start[cut] = 1;
      Case first = part(whole, 0, cut), second = part(whole, cut, 70);
      std::fill(first.dstate.begin(), first.dstate.end(), 0.0);
      second.ref.state0.clear();
      const Results packed = run(whole, dtype, best_cpu_isa()), a = run(first, dtype, best_cpu_isa()),
                    b = run(second, dtype, best_cpu_isa());
      Results separate{
          joined(a.y, b.y),   b.state, joined(a.dr, b.dr), joined(a.dk, b.dk), joined(a.dv, b.dv),
          joined(a.dw, b.dw), a.du,    a.dstate0};
      for (size_t i = 0; i < separate.du.size(); ++i) separate.du[i] += b.du[i];
      expect_close(packed, separate, dtype == DType::kF32 ? 1e-6 : 1e-14, str("cut at ", cut, ", ", dtype));
      if (cut % kWkv6Block == 0) {
        separate.du = packed.du;  // a sum in another order
        expect_same(packed, separate, str("cut at ", cut, ", ", dtype));
      }
    }
  }
}

TEST(Wkv6, CarriedStateEqualsOneCall) {
  for (DType dtype : {DType::kF32, DType::kF64}) {
    for (const auto& [T, cut] : std::vector<std::pair<int64_t, int64_t>>{
             {70, 16}, {70, 32}, {70, 48}, {70, 7}, {70, 33}, {600, 256}, {600, 144}, {600, 400}}) {
      const Case whole = make_case(1, T, 2, 64, true);
      Case first = part(whole, 0, cut), second = part(whole, cut, T);
      second.ref.state0 = run(first, dtype, best_cpu_isa()).state;
      const Results b = run(second, dtype, best_cpu_isa());
      first.dstate = b.dstate0;
      const Results a = run(first, dtype, best_cpu_isa()), one = run(whole, dtype, best_cpu_isa());
      Results two{joined(a.y, b.y),   b.state, joined(a.dr, b.dr), joined(a.dk, b.dk), joined(a.dv, b.dv),
                  joined(a.dw, b.dw), a.du,    a.dstate0};
      for (size_t i = 0; i < two.du.size(); ++i) two.du[i] += b.du[i];
      expect_close(two, one, dtype == DType::kF32 ? 1e-6 : 1e-14, str("cut at ", cut, ", ", dtype));
      if (cut % kWkv6Block == 0) {
        two.du = one.du;
        expect_same(two, one, str("cut at ", cut, ", ", dtype));
      }
    }
  }
}

// Several segments, blocks of the forward pass and groups of heads, the last of each not full.
TEST(Wkv6, LongSequencesAndManyHeads) {
  Case c = make_case(2, 2 * kWkv6Segment + 21, 3, 32, true);
  check(c, "three segments");
  c.ref.doc_start.assign(2 * c.ref.T, 0);
  for (int64_t t : {int64_t{63}, int64_t{64}, kWkv6Segment - 1, kWkv6Segment}) c.ref.doc_start[t] = 1;
  c.ref.doc_start[c.ref.T + 2 * kWkv6Segment] = 1;
  check(c, "document starts around the edges");
  check(make_case(2, 130, wkv6_group(64) + 3, 64, false), "two groups of heads");
  check(make_case(1, 20, 2, 520, false), "heads wider than a group");
}

TEST(Wkv6, SameBitsAgainAndWithMoreThreads) {
  for (CpuIsa isa : present_isas()) {
    const Case c = make_case(2, 45, 2, 64, true);
    const Results once = run(c, DType::kF32, isa, 1);
    expect_same(once, run(c, DType::kF32, isa, 1), str("again, ", isa));
    expect_same(once, run(c, DType::kF32, isa, 2), str("2 threads, ", isa));  // 4 heads: no strips
    expect_same(once, run(c, DType::kF32, isa, 4), str("4 threads, ", isa));
    const Case wide = make_case(2, 150, wkv6_group(32) + 1, 32, true);  // other groups of heads
    expect_same(run(wide, DType::kF32, isa, 1), run(wide, DType::kF32, isa, 3), str("3 threads, ", isa));
  }
}

// Fewer heads than threads: the value columns of each head are cut in strips.
TEST(Wkv6, StripsOfValueColumns) {
  for (const auto& [T, N] : std::vector<std::pair<int64_t, int64_t>>{
           {45, 20}, {45, 64}, {kWkv6Segment + 29, 64}, {45, 100}, {45, 128}}) {
    Case c = make_case(1, T, 1, N, true);
    c.ref.doc_start.assign(T, 0);
    c.ref.doc_start[21] = 1;
    const Results expected = reference(c);
    for (CpuIsa isa : present_isas()) {
      for (int threads : {2, 3, 8}) {
        const Results found = run(c, DType::kF64, isa, threads);
        expect_close(found, expected, 1e-13, str(threads, " threads, N", N, ", ", isa));
        expect_same(found, run(c, DType::kF64, isa, threads), str(threads, " threads, N", N, ", ", isa));
        expect_close(run(c, DType::kF32, isa, threads), expected, 5e-6,
                     str(threads, " threads, N", N, ", ", isa, " f32"));
      }
    }
  }
}

// w such that the log decay -exp(w) is g; for 0, so close to it that the decay is 1 in float.
double raw(double g) { return g == 0 ? -30.0 : std::log(-g); }

TEST(Wkv6, DecayExtremes) {
  const std::vector<double> g = {0, -1e-4, -0.6, -5, -30, -60, -1000, -8100};
  for (double one : g) {
    check(make_case(1, 37, 1, 32, true, [&](auto&, int64_t, int64_t) { return raw(one); }), str("g = ", one));
  }
  check(make_case(1, 70, 1, 64, true, [&](auto&, int64_t, int64_t i) { return raw(g[i % 8]); }),
        "mixture by channel");
  check(make_case(1, 70, 1, 64, true, [&](auto& rng, int64_t, int64_t) { return raw(g[rng() % 8]); }),
        "mixture by entry");
  check(make_case(1, 70, 1, 64, true,
                  [](auto& rng, int64_t, int64_t) {
                    return std::uniform_real_distribution<double>(-9.0, 9.0)(rng);
                  }),
        "w in [-9, 9]");
}

TEST(Wkv6, StrongDecayAroundTheStartOfAChunk) {
  for (int64_t at : {0, 1, 2, 3, 4, 15, 16, 17}) {
    check(make_case(1, 37, 1, 32, true,
                    [&](auto&, int64_t t, int64_t) { return raw(t % 16 == at % 16 ? -200.0 : -0.01); }),
          str("strong at ", at));
  }
}

TEST(Wkv6, IsolatedStrongTokens) {
  for (double strong : {-10.0, -30.0, -60.0, -200.0}) {
    check(make_case(1, 150, 1, 64, true,
                    [&](auto& rng, int64_t, int64_t) { return rng() % 50 == 0 ? raw(strong) : raw(-0.02); }),
          str("2 % of tokens at g = ", strong));
  }
}

// exp(w) overflows, or vanishes: every result stays finite and right.
TEST(Wkv6, RawDecayBeyondExp) {
  check(make_case(1, 37, 1, 32, true, [](auto& rng, int64_t, int64_t) { return rng() % 2 ? 1e30 : -1e30; }),
        "w = +-1e30");
  check(make_case(1, 37, 1, 32, true, [](auto& rng, int64_t, int64_t) { return rng() % 2 ? 800.0 : -2.0; }),
        "w = 800");
}

// A decay multiplies paths from an earlier token to a later one: there is none at either end.
TEST(Wkv6, NoDecayGradientAtTheEnds) {
  Case c = make_case(1, 21, 1, 32, false);
  std::fill(c.dstate.begin(), c.dstate.end(), 0.0);
  for (CpuIsa isa : present_isas()) {
    const Results found = run(c, DType::kF32, isa);
    for (int64_t i = 0; i < 32; ++i) {
      EXPECT_EQ(found.dw[i], 0.0);
      EXPECT_EQ(found.dw[20 * 32 + i], 0.0);
      EXPECT_NE(found.dw[10 * 32 + i], 0.0);
    }
  }
}

TEST(Wkv6, NanIsNotHidden) {
  Case c = make_case(1, 9, 1, 32, false);
  c.ref.w[4 * 32 + 7] = std::nan("");
  for (CpuIsa isa : present_isas()) {
    const Results found = run(c, DType::kF32, isa);
    EXPECT_TRUE(std::isnan(found.y[8 * 32]));
    EXPECT_TRUE(std::isnan(found.dw[4 * 32 + 7]));
  }
}

// u is a parameter: a second use adds to what is in its bucket.
TEST(Wkv6, GradientOfUAccumulates) {
  const Case c = make_case(2, 9, 1, 32, false);
  const Results once = run(c, DType::kF64, best_cpu_isa());
  Device device(DeviceType::kCpu, 2);
  const Shape rows{2, 9, 1, 32};
  const auto tensor = [&](const Values& x, const Shape& shape) {
    return tensor_from<double>(x, shape, DType::kF64, device);
  };
  Parameter u{.name = "u",
              .global = {1, 32},
              .spec = {},
              .master = tensor(c.ref.u, {1, 32}),
              .grad = empty({1, 32}, DType::kF64, device),
              .compute = {}};
  for (int uses = 1; uses <= 2; ++uses) {
    Tape tape;
    const ops::WkvOut out = ops::wkv6(tensor(c.ref.r, rows), tensor(c.ref.k, rows), tensor(c.ref.v, rows),
                                      tensor(c.ref.w, rows), tape.leaf(u));
    const Tensor seed = tensor(c.dy, rows);
    tape.backward(out.y, &seed);
    Values expected = once.du;
    for (double& x : expected) x *= uses;
    EXPECT_LE(relative_error(to_doubles(u.grad), expected), 1e-15);
  }
}

#ifdef ROOKERY_HAVE_EMUL
// On a GPU too: cut at a multiple of 64 tokens, where it saves states, two calls give the bits of one.
TEST(Wkv6, CutsChangeNoBitsOnAGpu) {
  const Case whole = make_case(1, 150, 2, 32, true);
  Device device(DeviceType::kEmul, 1);
  for (const int64_t cut : {64, 128}) {
    Case first = part(whole, 0, cut), second = part(whole, cut, 150);
    second.ref.state0 = run(first, DType::kF32, device).state;
    const Results b = run(second, DType::kF32, device);
    first.dstate = b.dstate0;
    const Results a = run(first, DType::kF32, device), one = run(whole, DType::kF32, device);
    expect_same({joined(a.y, b.y), b.state, joined(a.dr, b.dr), joined(a.dk, b.dk), joined(a.dv, b.dv),
                 joined(a.dw, b.dw), one.du, a.dstate0},
                one, str("cut at ", cut));
  }
}

TEST(Wkv6, RefusesHeadsTooLargeForAGpu) {
  Device device(DeviceType::kEmul, 1);
  const Case c = make_case(1, 2, 1, kWkv6GpuHead + 1, false);
  try {
    run(c, DType::kF32, device);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.id(), kNoKernel);
    EXPECT_NE(std::string(e.what()).find("heads of size 65"), std::string::npos) << e.what();
  }
}
#endif

TEST(Wkv6, RefusesWrongShapes) {
  Device device(DeviceType::kCpu, 1);
  const auto rows = [&](int64_t N) { return zeros({1, 4, 2, N}, DType::kF32, device); };
  const Tensor u = zeros({2, 32}, DType::kF32, device);
  EXPECT_THROW(ops::wkv6(rows(32), rows(31), rows(32), rows(32), u), Error);
  EXPECT_THROW(ops::wkv6(rows(32), rows(32), rows(32), rows(32), zeros({32}, DType::kF32, device)), Error);
  EXPECT_THROW(ops::wkv6(rows(32), rows(32), rows(32), rows(32), u, zeros({1, 2, 32}, DType::kF32, device)),
               Error);
}

}  // namespace
}  // namespace rookery
