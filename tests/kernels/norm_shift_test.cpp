// norm_shift_test.cpp: residual sum, layer norm and mixing with the previous token as one operation, against
// the three formulas (rwkv-common 2, 3), over every combination of what may be missing.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/ops/token_shift/norm_shift.h"
#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

struct Case {
  int64_t B, T, C;
  int mixes;
  bool plain, delta, carried, starts;  // plain: the first output is the norm itself
  std::string name() const {
    return str("norm_shift B", B, " T", T, " C", C, " mixes ", mixes, plain ? " plain" : "",
               delta ? " delta" : "", carried ? " carried" : "", starts ? " starts" : "");
  }
};

constexpr double kEps = 1e-5;

// The sum, the outputs, then the last tokens' norm.
Outputs formulas(const Case& s, const Named<Values>& in) {
  Values sum = in["x"];
  for (size_t i = 0; i < sum.size() && s.delta; ++i) sum[i] += in["delta"][i];
  Values n(sum.size()), last;
  for (int64_t at = 0; at < s.B * s.T * s.C; at += s.C) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < s.C; ++i) mean += sum[at + i] / static_cast<double>(s.C);
    for (int64_t i = 0; i < s.C; ++i)
      variance += (sum[at + i] - mean) * (sum[at + i] - mean) / static_cast<double>(s.C);
    for (int64_t i = 0; i < s.C; ++i)
      n[at + i] = (sum[at + i] - mean) / std::sqrt(variance + kEps) * in["gamma"][i] + in["beta"][i];
    if (at / s.C % s.T == s.T - 1) last.insert(last.end(), n.begin() + at, n.begin() + at + s.C);
  }
  Outputs out{sum};
  for (int q = 0; q < s.mixes; ++q) {
    out.push_back(n);
    if (s.plain && q == 0) continue;
    for (int64_t row = 0; row < s.B * s.T; ++row)
      for (int64_t i = 0; i < s.C; ++i) {
        double before = 0;
        if (s.starts && in["doc_start"][row] != 0) {
          before = 0;
        } else if (row % s.T != 0) {
          before = n[(row - 1) * s.C + i];
        } else if (s.carried) {
          before = in["carried"][row / s.T * s.C + i];
        }
        out.back()[row * s.C + i] += (before - n[row * s.C + i]) * in[str("mu", q)][i];
      }
  }
  out.push_back(last);
  return out;
}

OpCase op_case(const Case& s) {
  OpCase c(s.name());
  c.input("x", {s.B, s.T, s.C}, {-2, 3});
  if (s.delta) c.input("delta", {s.B, s.T, s.C}, {-1, 1});
  c.input("gamma", {s.C}, {0.5, 1.5});
  c.input("beta", {s.C}, {-1, 1});
  if (s.carried) c.input("carried", {s.B, s.C}, {-1, 1});
  for (int q = s.plain ? 1 : 0; q < s.mixes; ++q) c.input(str("mu", q), {1, 1, s.C}, {0, 0.8});
  if (s.starts) {
    // At row 0, inside, twice in a row, and where the parts of the kernels meet.
    Values doc_start(static_cast<size_t>(s.B * s.T), 0.0);
    for (const int64_t t : {3, 4, 16, 32, 50})
      for (int64_t b = 0; b < s.B; ++b)
        if (t < s.T) doc_start[b * s.T + t] = 1;
    doc_start[(s.B - 1) * s.T] = 1;
    c.integers("doc_start", {s.B, s.T}, DType::kU8, doc_start);
  }
  c.bits_depend_on_threads = true;  // dmu, dgamma, dbeta
  // The way back reads the sum in bf16: exact arithmetic on it has 1.69e-5 in one dmu of five channels.
  if (s.delta && s.C == 5) c.bf16_nmse = 1.8e-5;
  c.run = [s](const Named<Var>& in) {
    std::vector<Var> mu;
    for (int q = 0; q < s.mixes; ++q) mu.push_back(s.plain && q == 0 ? Var() : in[str("mu", q)]);
    const ops::Previous previous{s.carried ? in["carried"] : Var(),
                                 s.starts ? in["doc_start"].value() : Tensor()};
    const ops::NormShift made = ops::norm_shift(in["x"], s.delta ? in["delta"] : Var(), in["gamma"],
                                                in["beta"], previous, mu, true, kEps);
    std::vector<Var> out{made.x};
    out.insert(out.end(), made.out.begin(), made.out.end());
    out.emplace_back(made.last);
    return out;
  };
  c.reference = [s](const Named<Values>& in) { return formulas(s, in); };
  return c;
}

TEST(NormShift, MatchesTheFormulas) {
  const std::vector<Case> cases = {
      {2, 1, 3, 1, false, true, true, false},    {1, 1, 5, 2, true, false, false, true},
      {3, 37, 5, 6, false, true, false, true},   {3, 37, 5, 2, false, false, true, true},
      {1, 65, 17, 1, false, true, false, false}, {1, 65, 17, 2, true, true, true, true},
      {2, 20, 8, 6, true, false, true, false},   {2, 20, 264, 2, false, true, true, true}};
  for (const Case& s : cases) op_case(s).check();
}

// Outputs that nothing reads give no gradient.
TEST(NormShift, UnusedOutputs) {
  const Case s{2, 35, 9, 3, true, true, true, true};
  for (const size_t used : {0, 1, 3}) {
    OpCase c = op_case(s);
    const auto run = c.run;
    c.run = [run, used](const Named<Var>& in) {
      std::vector<Var> all = run(in);
      // Gradients of zero for the inputs that the output in use does not depend on.
      for (size_t i = 0; i < all.size(); ++i)
        if (i != used) all[i] = Var(all[i].value());
      return all;
    };
    c.check();
  }
}

TEST(NormShift, ShapesThatDoNotFitAreNamed) {
  Device device(DeviceType::kCpu, 1);
  auto tensor = [&](const Shape& shape) { return Var(zeros(shape, DType::kF32, device)); };
  const Var x = tensor({2, 3, 4}), c = tensor({4});
  EXPECT_THROW(ops::norm_shift(x, tensor({2, 3, 5}), c, c, {}, {c}), Error);
  EXPECT_THROW(ops::norm_shift(x, Var(), tensor({5}), c, {}, {c}), Error);
  EXPECT_THROW(ops::norm_shift(x, Var(), c, c, {tensor({3, 4}), {}}, {c}), Error);
  EXPECT_THROW(ops::norm_shift(x, Var(), c, c, {}, {tensor({5})}), Error);
  EXPECT_THROW(ops::norm_shift(x, Var(), c, c, {}, {}), Error);
  EXPECT_THROW(ops::norm_shift(x, Var(), c, c, {}, std::vector<Var>(7, c)), Error);
}

}  // namespace
}  // namespace rookery::test
