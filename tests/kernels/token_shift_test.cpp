// token_shift_test.cpp: mixing with the previous token, plain and data-dependent, over every combination of a
// carried token and document starts.
#include <gtest/gtest.h>

#include <array>

#include "kernels/ops/token_shift/token_shift.h"
#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

struct Size {
  int64_t B, T, C;
};

// The token before each: row t-1, the carried one, or zero.
Values shifted(const Named<Values>& in, const Size& s, bool carried, bool starts) {
  Values previous(static_cast<size_t>(s.B * s.T * s.C), 0.0);
  const Values& x = in["x"];
  for (int64_t b = 0; b < s.B; ++b)
    for (int64_t t = 0; t < s.T; ++t) {
      if (starts && in["doc_start"][b * s.T + t] != 0) continue;
      for (int64_t c = 0; c < s.C; ++c) {
        double& to = previous[(b * s.T + t) * s.C + c];
        if (t > 0) {
          to = x[(b * s.T + t - 1) * s.C + c];
        } else if (carried) {
          to = in["carried"][b * s.C + c];
        }
      }
    }
  return previous;
}

void add_inputs(OpCase& c, const Size& s, bool carried, bool starts) {
  c.input("x", {s.B, s.T, s.C}, {-1, 1});
  if (carried) c.input("carried", {s.B, s.C}, {-1, 1});
  if (!starts) return;
  // Starts at row 0, inside, twice in a row, and at row 31 and 32, where the kernels' blocks meet.
  Values doc_start(static_cast<size_t>(s.B * s.T), 0.0);
  for (const int64_t t : {3, 4, 31, 32, 50})
    for (int64_t b = 0; b < s.B; ++b)
      if (t < s.T) doc_start[b * s.T + t] = 1;
  if (s.B > 1) doc_start[s.T] = 1;
  if (s.B == 1 && s.T == 1) doc_start[0] = 1;
  c.integers("doc_start", {s.B, s.T}, DType::kU8, doc_start);
}

ops::Previous previous_of(const Named<Var>& in, bool carried, bool starts) {
  return {carried ? in["carried"] : Var(), starts ? in["doc_start"].value() : Tensor()};
}

const std::vector<Size> kSizes = {{1, 1, 1}, {2, 1, 3}, {3, 37, 5}, {1, 65, 17}, {2, 20, 8}};

TEST(TokenShift, ShiftLerp) {
  for (const Size& s : kSizes)
    for (const bool carried : {false, true})
      for (const bool starts : {false, true})
        for (const int count : {1, 2, 6}) {
          if (count == 6 && carried != starts) continue;
          OpCase c(str("shift_lerp B", s.B, " T", s.T, " C", s.C, carried ? " carried" : "",
                       starts ? " starts" : "", " mixes ", count));
          add_inputs(c, s, carried, starts);
          for (int q = 0; q < count; ++q) c.input(str("mu", q), {1, 1, s.C}, {0, 0.8});
          c.bits_depend_on_threads = true;  // dmu
          c.run = [=](const Named<Var>& in) {
            std::vector<Var> mu;
            for (int q = 0; q < count; ++q) mu.push_back(in[str("mu", q)]);
            return ops::shift_lerp(in["x"], previous_of(in, carried, starts), mu);
          };
          c.reference = [=](const Named<Values>& in) {
            const Values previous = shifted(in, s, carried, starts);
            Outputs out(static_cast<size_t>(count), in["x"]);
            for (int q = 0; q < count; ++q) {
              const Values &x = in["x"], &mu = in[str("mu", q)];
              for (size_t i = 0; i < x.size(); ++i) out[q][i] += (previous[i] - x[i]) * mu[i % s.C];
            }
            return out;
          };
          c.check();
        }
}

TEST(TokenShift, Ddlerp) {
  for (const Size& s : kSizes)
    for (const bool carried : {false, true})
      for (const bool starts : {false, true})
        for (const int64_t R : {1, 5}) {
          if ((R == 5) != (carried == starts)) continue;
          OpCase c(str("ddlerp B", s.B, " T", s.T, " C", s.C, " R", R, carried ? " carried" : "",
                       starts ? " starts" : ""));
          add_inputs(c, s, carried, starts);
          c.input("h", {s.B, s.T, 5 * R}, {-1, 1});
          // Sums of mu and m_q stay below 1, where x - x * sum would cancel.
          c.input("w2", {5, R, s.C}, {-0.1, 0.1});
          for (int q = 0; q < 5; ++q) c.input(str("mu", q), {1, 1, s.C}, {0, 0.4});
          c.bits_depend_on_threads = true;
          c.run = [=](const Named<Var>& in) {
            std::vector<Var> mu;
            for (int q = 0; q < 5; ++q) mu.push_back(in[str("mu", q)]);
            return ops::ddlerp(in["x"], previous_of(in, carried, starts), mu, in["h"], in["w2"]);
          };
          c.reference = [=](const Named<Values>& in) {
            const Values previous = shifted(in, s, carried, starts);
            Outputs out(5, in["x"]);
            const Values &x = in["x"], &h = in["h"], &w2 = in["w2"];
            for (int64_t q = 0; q < 5; ++q) {
              const Values& mu = in[str("mu", q)];
              for (int64_t row = 0; row < s.B * s.T; ++row)
                for (int64_t i = 0; i < s.C; ++i) {
                  double mix = mu[i];
                  for (int64_t r = 0; r < R; ++r)
                    mix += h[row * 5 * R + q * R + r] * w2[(q * R + r) * s.C + i];
                  const int64_t at = row * s.C + i;
                  out[q][at] += (previous[at] - x[at]) * mix;
                }
            }
            return out;
          };
          c.check();
        }
}

// Outputs that nothing uses give no gradient; the others' gradients are as if they stood alone.
TEST(TokenShift, UnusedOutputs) {
  for (const int used : {0, 3}) {
    OpCase c(str("ddlerp, only output ", used));
    const Size s{2, 35, 9};
    c.input("x", {s.B, s.T, s.C}, {-1, 1});
    c.input("h", {s.B, s.T, 5 * 3}, {-1, 1});
    c.input("w2", {5, 3, s.C}, {-0.5, 0.5});
    c.input("mu", {s.C}, {0, 1});
    c.bits_depend_on_threads = true;
    c.run = [=](const Named<Var>& in) {
      Device& device = in["x"].value().device();
      const Var half(zeros({s.C}, in["x"].value().dtype(), device));
      std::vector<Var> mu(5, half);
      mu[used] = in["mu"];
      return std::vector{ops::ddlerp(in["x"], {}, mu, in["h"], in["w2"])[used]};
    };
    c.reference = [=](const Named<Values>& in) {
      const Values previous = shifted(in, s, false, false);
      Values out = in["x"];
      for (size_t at = 0; at < out.size(); ++at) {
        const size_t row = at / s.C, i = at % s.C;
        double mix = in["mu"][i];
        for (size_t r = 0; r < 3; ++r)
          mix += in["h"][row * 15 + used * 3 + r] * in["w2"][(used * 3 + r) * s.C + i];
        out[at] += (previous[at] - in["x"][at]) * mix;
      }
      return Outputs{out};
    };
    c.check();
  }
}

// Outputs that are not asked for are not there, and their share of h and w2 gets no gradient.
TEST(TokenShift, MixesLeftOut) {
  const Size s{2, 35, 9};
  constexpr int64_t kMixes = 3, R = 2;
  for (const int64_t asked : {0, 1, 2}) {
    OpCase c(str("ddlerp, only mix ", asked, " of three"));
    add_inputs(c, s, true, true);
    c.input("h", {s.B, s.T, kMixes * R}, {-1, 1});
    c.input("w2", {kMixes, R, s.C}, {-0.3, 0.3});
    c.input("mu", {1, 1, s.C}, {0, 0.4});
    c.bits_depend_on_threads = true;
    c.run = [=](const Named<Var>& in) {
      std::vector<Var> mu(kMixes);
      mu[asked] = in["mu"];
      const std::vector<Var> out = ops::ddlerp(in["x"], previous_of(in, true, true), mu, in["h"], in["w2"]);
      for (int64_t q = 0; q < kMixes; ++q) EXPECT_EQ(out[q].defined(), q == asked);
      return std::vector{out[asked]};
    };
    c.reference = [=](const Named<Values>& in) {
      const Values previous = shifted(in, s, true, true);
      Values out = in["x"];
      for (size_t at = 0; at < out.size(); ++at) {
        const size_t row = at / s.C, i = at % s.C;
        double mix = in["mu"][i];
        for (int64_t r = 0; r < R; ++r)
          mix += in["h"][row * kMixes * R + asked * R + r] * in["w2"][(asked * R + r) * s.C + i];
        out[at] += (previous[at] - in["x"][at]) * mix;
      }
      return Outputs{out};
    };
    c.check();
  }
}

TEST(TokenShift, ShapesThatDoNotFitAreNamed) {
  Device device(DeviceType::kCpu, 1);
  auto tensor = [&](const Shape& shape) { return Var(zeros(shape, DType::kF32, device)); };
  EXPECT_THROW(ops::shift_lerp(tensor({2, 3, 4}), {tensor({3, 4}), {}}, {tensor({4})}), Error);
  EXPECT_THROW(ops::shift_lerp(tensor({2, 3, 4}), {}, {tensor({5})}), Error);
  EXPECT_THROW(ops::shift_lerp(tensor({2, 3, 4}), {}, {}), Error);
}

}  // namespace
}  // namespace rookery::test
