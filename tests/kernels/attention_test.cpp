// attention_test.cpp: causal attention against the plain softmax over all scores (spec llama-baseline 2).
#include "kernels/ops/attention/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

struct Sizes {
  int64_t B, T, Hq, Hkv, D;
  int64_t past = 0;                    // keys before the first query
  int64_t room = 0;                    // rows of k and v after the last key, which nobody sees
  std::vector<int64_t> starts = {};    // of documents: positions in [B T]
  std::vector<int64_t> document = {};  // [B]: where the first query's began
  int64_t keys() const { return past + T + room; }
};

Values attend(const Sizes& n, const Values& q, const Values& k, const Values& v, double scale) {
  Values y(q.size());
  for (int64_t b = 0; b < n.B; ++b)
    for (int64_t h = 0; h < n.Hq; ++h) {
      const int64_t g = h / (n.Hq / n.Hkv);
      int64_t first = n.document.empty() ? 0 : n.document[b];
      for (int64_t t = 0; t < n.T; ++t) {
        if (std::count(n.starts.begin(), n.starts.end(), b * n.T + t)) first = n.past + t;
        const int64_t at = ((b * n.T + t) * n.Hq + h) * n.D;
        auto key = [&](int64_t s) { return ((b * n.keys() + s) * n.Hkv + g) * n.D; };
        Values p;
        double top = -1e300, sum = 0;
        for (int64_t s = first; s <= n.past + t; ++s) {
          double score = 0;
          for (int64_t d = 0; d < n.D; ++d) score += scale * q[at + d] * k[key(s) + d];
          p.push_back(score);
          top = std::max(top, score);
        }
        for (double& x : p) sum += x = std::exp(x - top);
        for (int64_t s = first; s <= n.past + t; ++s)
          for (int64_t d = 0; d < n.D; ++d) y[at + d] += p[s - first] / sum * v[key(s) + d];
      }
    }
  return y;
}

ops::AttentionOptions options_of(const Sizes& n, double scale, const Named<Var>& in) {
  return {scale, n.past, n.starts.empty() ? Tensor() : in["doc_start"].value(),
          n.document.empty() ? Tensor() : in["document"].value()};
}

OpCase attention_case(const Sizes& n, double scale, Uniform range = {-2, 2}, bool gradients = true,
                      Uniform keys = {0, 0}) {
  OpCase c(str("attention B", n.B, " T", n.T, " Hq", n.Hq, " Hkv", n.Hkv, " D", n.D, " past", n.past, " room",
               n.room, " documents", n.starts.size()));
  auto input = [&](const char* name, const Shape& shape, Uniform of) {
    gradients ? c.input(name, shape, of) : c.constant(name, shape, random_values(name, shape.numel(), of));
  };
  input("q", {n.B, n.T, n.Hq, n.D}, range);
  input("k", {n.B, n.keys(), n.Hkv, n.D}, keys.low < keys.high ? keys : range);
  input("v", {n.B, n.keys(), n.Hkv, n.D}, {-1, 1});
  Values starts(static_cast<size_t>(n.B * n.T));
  for (const int64_t at : n.starts) starts[at] = 1;
  c.integers("doc_start", {n.B, n.T}, DType::kU8, starts);
  if (!n.document.empty())
    c.integers("document", {n.B}, DType::kI32, Values(n.document.begin(), n.document.end()));
  c.bits_depend_on_threads = true;  // dq, where the keys of a head are split over threads
  c.run = [=](const Named<Var>& in) {
    return std::vector{ops::attention(in["q"], in["k"], in["v"], options_of(n, scale, in))};
  };
  c.reference = [=](const Named<Values>& in) { return Outputs{attend(n, in["q"], in["k"], in["v"], scale)}; };
  return c;
}

TEST(Attention, MatchesThePlainSoftmax) {
  for (const Sizes& n : std::vector<Sizes>{{1, 1, 1, 1, 1},
                                           {2, 5, 2, 2, 3},
                                           {1, 33, 4, 4, 16},
                                           {2, 65, 1, 1, 5},
                                           {1, 130, 2, 2, 8},
                                           {1, 300, 1, 1, 4},
                                           {1, 3, 1, 1, 20},
                                           {1, 70, 1, 1, 40},
                                           {1, 5, 2, 1, 100}})
    attention_case(n, 1 / std::sqrt(static_cast<double>(n.D))).check();
}

TEST(Attention, GroupsOfQueryHeadsShareAKeyHead) {
  for (const Sizes& n : std::vector<Sizes>{{1, 9, 4, 2, 3}, {2, 70, 6, 2, 5}, {1, 40, 3, 1, 7}})
    attention_case(n, 0.5).check();
}

TEST(Attention, KeysOfEarlierTokens) {
  for (const Sizes& n : std::vector<Sizes>{{1, 1, 2, 1, 4, 6},
                                           {2, 3, 2, 2, 5, 70, 13},
                                           {1, 1, 1, 1, 3, 299, 1},
                                           {1, 1, 2, 1, 8, 299, 1},
                                           {1, 66, 2, 1, 3, 200},
                                           {2, 2, 1, 1, 2, 0, 5},
                                           {1, 1, 1, 1, 2, 6500},
                                           {1, 1, 1, 1, 8, 6500}}) {
    OpCase c = attention_case(n, 0.7);
    if (n.past > 1000) c.f32_nmse = 1e-10;  // sums of thousands, which cancel in dq
    c.check();
  }
}

TEST(Attention, DocumentsSeeThemselvesOnly) {
  for (const Sizes& n : std::vector<Sizes>{{1, 6, 2, 1, 3, 0, 0, {0, 1, 4}},
                                           {2, 140, 2, 2, 4, 0, 0, {0, 63, 64, 65, 140, 200, 279}},
                                           {1, 320, 1, 1, 3, 0, 0, {10, 300}},
                                           {2, 4, 1, 1, 3, 5, 2, {2, 4}},
                                           {2, 4, 1, 1, 3, 9, 0, {}, {0, 7}},
                                           {2, 40, 2, 1, 3, 70, 0, {5, 60}, {70, 33}}}) {
    OpCase c = attention_case(n, 0.6);
    c.f32_nmse = 1e-11;  // of two or three keys: dp - y . dy cancels
    c.check();
  }
}

// Keys [begin, begin + count) of x: [B, S, H, D].
Tensor keys_of(const Tensor& x, int64_t begin, int64_t count) {
  const auto [B, S, H, D] = x.dims<4>("x");
  const Tensor part = empty({B, count, H, D}, x.dtype(), x.device());
  if (x.device().type() == DeviceType::kMeta) return part;
  const Tensor from = x.reshape({B * S, H * D}), to = part.reshape({B * count, H * D});
  for (int64_t b = 0; b < B; ++b) copy(from.narrow(b * S + begin, count), to.narrow(b * count, count));
  return part;
}

TEST(Attention, InParts) {
  for (const Sizes& n : std::vector<Sizes>{{1, 1, 2, 1, 3, 40},
                                           {2, 70, 2, 2, 5, 30},
                                           {2, 3, 4, 2, 3, 64, 0, {1, 5}},
                                           {2, 35, 1, 1, 3, 60, 0, {0, 60}, {33, 50}},
                                           {1, 1, 1, 1, 3, 200, 0, {}, {190}}})
    for (const int64_t part_size : {1, 7, 64, 1000}) {
      if (part_size == 1 && n.T > 3) continue;  // a hundred launches each
      OpCase c = attention_case(n, 0.7, {-2, 2}, false);
      const int64_t first_key =
          n.document.empty() ? 0 : *std::min_element(n.document.begin(), n.document.end());
      c.run = [=](const Named<Var>& in) {
        auto part = [&](int64_t begin, int64_t count) {
          EXPECT_GE(begin, first_key);
          return std::pair(keys_of(in["k"].value(), begin, count), keys_of(in["v"].value(), begin, count));
        };
        return std::vector{Var(
            ops::attention_in_parts(in["q"].value(), first_key, part_size, part, options_of(n, 0.7, in)))};
      };
      c.check();
    }
}

// Scores of many hundreds: only their differences count.
TEST(Attention, LargeScores) {
  OpCase c = attention_case({1, 20, 1, 1, 4}, 10, {6, 8});
  c.f32_nmse = 1e-7;  // scores of 2000 have an error of 1e-4, and dp - y . dy cancels
  c.step = 1e-5;      // the softmax bends within a step of 1 / (10 x 8)
  c.gradient_error = 1e-5;
  c.check();
}

// All far below zero, with rows behind the last query in its tile.
TEST(Attention, LargeNegativeScores) {
  OpCase c = attention_case({1, 70, 1, 1, 4}, 1, {6, 8}, true, {-8, -6});
  c.f32_nmse = 1e-9;  // scores of 200 have an error of 1e-5
  c.step = 1e-4;
  c.gradient_error = 1e-6;
  c.check();
}

TEST(Attention, ShapesMustFit) {
  Device device(DeviceType::kCpu, 1);
  auto of = [&](const Shape& shape) { return Var(zeros(shape, DType::kF32, device)); };
  const Var q = of({1, 4, 3, 2});
  EXPECT_THROW(ops::attention(q, of({1, 4, 2, 2}), of({1, 4, 2, 2}), {}), Error);  // 3 heads in groups of 2
  EXPECT_THROW(ops::attention(q, of({1, 3, 3, 2}), of({1, 3, 3, 2}), {}), Error);  // fewer keys than queries
  EXPECT_THROW(ops::attention(q, of({1, 4, 3, 2}), of({1, 5, 3, 2}), {}), Error);
  EXPECT_THROW(ops::attention(q, of({1, 4, 3, 2}), of({1, 4, 3, 2}), {.scale = 1, .past = 1}), Error);
}

}  // namespace
}  // namespace rookery::test
