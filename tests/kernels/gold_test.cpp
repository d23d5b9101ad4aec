// gold_test.cpp: keys and values expanded from GoldFinch's compressed cache, against the formulas.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/ops/gold/gold.h"
#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

struct Size {
  int64_t B, T, D, R;
};

TEST(Gold, Keys) {
  for (const Size& s : {Size{1, 1, 2, 1}, {1, 1, 3, 1}, {2, 3, 5, 1}, {1, 7, 65, 4}, {2, 5, 16, 16}}) {
    OpCase c(str("gold_keys B", s.B, " T", s.T, " D", s.D, " R", s.R));
    c.input("x0", {s.B, s.T, s.D}, {-1, 1});
    c.input("c", {s.B, s.T, s.R}, {-1, 1});
    c.input("w", {s.D, s.D + s.R}, {-1, 1});
    c.bits_depend_on_threads = true;  // the sums of dw
    c.run = [](const Named<Var>& in) { return std::vector{ops::gold_keys(in["x0"], in["c"], in["w"])}; };
    c.reference = [s](const Named<Values>& in) {
      Values keys;
      for (int64_t row = 0; row < s.B * s.T; ++row) {
        Values joined(in["x0"].begin() + row * s.D, in["x0"].begin() + (row + 1) * s.D);
        joined.insert(joined.end(), in["c"].begin() + row * s.R, in["c"].begin() + (row + 1) * s.R);
        Values z(static_cast<size_t>(s.D), 0.0);
        double squares = 0;
        for (int64_t i = 0; i < s.D; ++i) {
          for (int64_t k = 0; k < s.D + s.R; ++k) z[i] += joined[k] * in["w"][i * (s.D + s.R) + k];
          squares += z[i] * z[i];
        }
        for (const double v : z) keys.push_back(v / (std::sqrt(squares / static_cast<double>(s.D)) + 1e-8));
      }
      return Outputs{keys};
    };
    c.check();
  }
}

// Keys and values of one block by the formulas (goldfinch 3).
struct Block {
  int64_t B, S, U, D, R, M, P;
  int64_t T;                       // tokens of the last pass
  std::vector<int64_t> document;   // [B]: where the text before these starts; empty: at 0
  std::vector<int64_t> doc_start;  // of texts in the last pass: positions in [B T]
  bool starts_at(int64_t b, int64_t s) const {
    return s == 0 || (!document.empty() && s == document[b]) ||
           (s >= S - T && std::count(doc_start.begin(), doc_start.end(), b * T + s - (S - T)) > 0);
  }
  Shape shape(const std::string& of) const {
    if (of == "x0") return {1, U, D};
    if (of == "cache") return {B, S + 3, R};
    if (of == "w") return {D, D + R};
    if (of == "mix_w1") return {D, 2 * M};
    if (of == "mix_w2") return {2, M, D};
    if (of.ends_with("_w1")) return {D, P};
    if (of.ends_with("_w2")) return {P, D};
    return {D};
  }
};
const std::vector<std::string> kNames = {
    "x0",     "cache",  "w",        "mix_hidden", "mix_k",       "mix_v",     "mix_w1",      "mix_w2",
    "key_w1", "key_w2", "value_w1", "value_w2",   "ln_k_weight", "ln_k_bias", "ln_v_weight", "ln_v_bias"};

Outputs keys_and_values(const Block& n, const Named<Values>& in, int64_t begin, int64_t count) {
  const int64_t D = n.D;
  auto divided_by_rms = [&](Values z) {
    double squares = 0;
    for (const double v : z) squares += v * v;
    for (double& v : z) v /= std::sqrt(squares / static_cast<double>(D)) + 1e-8;
    return z;
  };
  auto product = [](const Values& x, const Values& w, int64_t at, int64_t columns) {
    Values y(static_cast<size_t>(columns), 0.0);
    for (size_t i = 0; i < x.size(); ++i)
      for (int64_t j = 0; j < columns; ++j) y[j] += x[i] * w[at + static_cast<int64_t>(i) * columns + j];
    return y;
  };
  auto tanh_of = [](Values x) {
    for (double& v : x) v = std::tanh(v);
    return x;
  };
  auto of_token = [&](int64_t b, int64_t s) {  // rms(x0), shared key
    const auto id = static_cast<int64_t>(in["index"][b * n.S + s]);
    Values joined(in["x0"].begin() + id * D, in["x0"].begin() + (id + 1) * D);
    const Values e = divided_by_rms(joined);
    const auto cache = in["cache"].begin() + (b * (n.S + 3) + s) * n.R;
    joined.insert(joined.end(), cache, cache + n.R);
    Values key(static_cast<size_t>(D), 0.0);
    for (int64_t i = 0; i < D; ++i)
      for (int64_t j = 0; j < D + n.R; ++j) key[i] += joined[j] * in["w"][i * (D + n.R) + j];
    return std::pair(e, divided_by_rms(key));
  };
  auto lerp = [&](const Values& x, const Values& before, const Values& mu, const Values& more) {
    Values y = x;
    for (int64_t i = 0; i < D; ++i) y[i] += (before[i] - x[i]) * (mu[i] + more[i]);
    return y;
  };
  auto corrected = [&](const Values& x, const std::string& of, const std::string& norm) {
    const Values more = product(tanh_of(product(x, in[of + "_w1"], 0, n.P)), in[of + "_w2"], 0, D);
    Values y = x;
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < D; ++i) mean += (y[i] += more[i]) / static_cast<double>(D);
    for (const double v : y) variance += (v - mean) * (v - mean) / static_cast<double>(D);
    for (int64_t i = 0; i < D; ++i)
      y[i] = (y[i] - mean) / std::sqrt(variance + 1e-5) * in[norm + "_weight"][i] + in[norm + "_bias"][i];
    return y;
  };
  Values k, v;
  const Values zero(static_cast<size_t>(D), 0.0);
  for (int64_t b = 0; b < n.B; ++b)
    for (int64_t s = begin; s < begin + count; ++s) {
      const auto [e, key] = of_token(b, s);
      const auto [e_before, key_before] = n.starts_at(b, s) ? std::pair(zero, zero) : of_token(b, s - 1);
      const Values h = tanh_of(product(lerp(e, e_before, in["mix_hidden"], zero), in["mix_w1"], 0, 2 * n.M));
      const Values of_key(h.begin(), h.begin() + n.M), of_value(h.begin() + n.M, h.end());
      const Values mix_k = product(of_key, in["mix_w2"], 0, D),
                   mix_v = product(of_value, in["mix_w2"], n.M * D, D);
      for (const double x : corrected(lerp(key, key_before, in["mix_k"], mix_k), "key", "ln_k"))
        k.push_back(x);
      for (const double x : corrected(lerp(e, e_before, in["mix_v"], mix_v), "value", "ln_v")) v.push_back(x);
    }
  return {k, v};
}

TEST(Gold, KeysAndValuesOfABlock) {
  for (const Block& n :
       {Block{1, 1, 3, 2, 1, 1, 1, 1, {}, {}}, Block{2, 5, 4, 6, 2, 3, 4, 2, {0, 2}, {3}},
        Block{1, 150, 20, 65, 4, 5, 7, 66, {80}, {0, 1, 45}}, Block{3, 70, 9, 8, 2, 1, 3, 10, {}, {}}})
    for (const auto& [begin, count] : {std::pair<int64_t, int64_t>{0, n.S}, {n.S / 2, n.S - n.S / 2}}) {
      OpCase c(
          str("gold_expand B", n.B, " S", n.S, " D", n.D, " R", n.R, " M", n.M, " P", n.P, " from ", begin));
      for (const std::string& name : kNames)
        c.constant(name, n.shape(name), random_values(name, n.shape(name).numel(), {-1, 1}));
      Values index = random_values("index", n.B * n.S, {0, static_cast<double>(n.U)});
      for (double& row : index) row = std::floor(row);
      c.integers("index", {n.B, n.S}, DType::kI32, index);
      Values doc_start(static_cast<size_t>(n.B * n.T), 0.0);
      for (const int64_t at : n.doc_start) doc_start[at] = 1;
      c.integers("doc_start", {n.B, n.T}, DType::kU8, doc_start);
      c.integers("document", {n.B}, DType::kI32,
                 n.document.empty() ? Values(static_cast<size_t>(n.B), 0.0)
                                    : Values(n.document.begin(), n.document.end()));
      c.run = [=](const Named<Var>& in) {
        auto value = [&](const char* name) { return in[name].value(); };
        const ops::GoldTokens tokens =
            ops::gold_tokens(value("index"), value("x0"), value("cache"), value("w"),
                             n.doc_start.empty() ? Tensor() : value("doc_start"),
                             n.document.empty() ? Tensor() : value("document"));
        const ops::GoldWeights weights{value("mix_hidden"),  value("mix_k"),     value("mix_v"),
                                       value("mix_w1"),      value("mix_w2"),    value("key_w1"),
                                       value("key_w2"),      value("value_w1"),  value("value_w2"),
                                       value("ln_k_weight"), value("ln_k_bias"), value("ln_v_weight"),
                                       value("ln_v_bias")};
        const auto [k, v] = ops::gold_expand(tokens, weights, begin, count);
        return std::vector{Var(k), Var(v)};
      };
      c.reference = [=](const Named<Values>& in) { return keys_and_values(n, in, begin, count); };
      c.check();
    }
}

TEST(Gold, DistinctIds) {
  Device device(DeviceType::kCpu, 1);
  const std::vector<int32_t> ids = {7, 2, 7, 9, 0, 2, 3, 0};
  const auto [distinct, index] =
      ops::distinct_ids(tensor_from(std::span(ids), {2, 4}, DType::kI32, device), 3, 10);  // not 9, 0
  EXPECT_EQ(to_doubles(distinct), (Values{0, 2, 3, 7}));
  EXPECT_EQ(to_doubles(index), (Values{3, 1, 3, 0, 1, 2}));
  Device meta(DeviceType::kMeta, 1);
  const Tensor unknown = empty({2, 4}, DType::kI32, meta);
  EXPECT_EQ(ops::distinct_ids(unknown, 3, 10).ids.shape(), (Shape{1, 6}));
  EXPECT_EQ(ops::distinct_ids(unknown, 3, 5).ids.shape(), (Shape{1, 5}));
}

TEST(Gold, ShapesThatDoNotFitAreNamed) {
  Device device(DeviceType::kCpu, 1);
  auto tensor = [&](const Shape& shape) { return Var(zeros(shape, DType::kF32, device)); };
  EXPECT_THROW(ops::gold_keys(tensor({2, 3, 4}), tensor({2, 3, 2}), tensor({4, 5})), Error);
  EXPECT_THROW(ops::gold_keys(tensor({2, 3, 4}), tensor({2, 2, 2}), tensor({4, 6})), Error);
}

}  // namespace
}  // namespace rookery::test
