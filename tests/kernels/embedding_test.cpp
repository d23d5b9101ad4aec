// embedding_test.cpp: rows by token id; the gradient of a row that occurs more than once is a sum.
#include <gtest/gtest.h>

#include <array>

#include "kernels/ops/embedding/embedding.h"
#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

TEST(Embedding, RepeatedAndUnusedRows) {
  for (const auto& [B, T, V, C] :
       std::vector<std::array<int64_t, 4>>{{1, 1, 1, 1}, {1, 7, 3, 65}, {2, 33, 50, 40}, {3, 300, 11, 33}}) {
    OpCase c(str("embedding B", B, " T", T, " V", V, " C", C));
    Values ids = random_values("ids", B * T, {0, static_cast<double>(V)});
    for (double& id : ids) id = static_cast<double>(static_cast<int64_t>(id));
    c.integers("ids", {B, T}, DType::kI32, ids);
    c.input("table", {V, C}, {-1, 1});
    c.run = [](const Named<Var>& in) { return std::vector{ops::embedding(in["ids"].value(), in["table"])}; };
    c.reference = [C = C](const Named<Values>& in) {
      Values y;
      for (const double id : in["ids"])
        for (int64_t i = 0; i < C; ++i) y.push_back(in["table"][static_cast<size_t>(id) * C + i]);
      return Outputs{y};
    };
    c.check();
  }
}

// A slice of the vocabulary: other ids are other ranks'.
TEST(Embedding, RowsThatTheTableHasNot) {
  constexpr int64_t B = 2, T = 19, V = 5, C = 11, kFirst = 4;
  OpCase c("embedding of a slice");
  Values ids = random_values("ids", B * T, {0, 13});
  for (double& id : ids) id = static_cast<double>(static_cast<int64_t>(id));
  c.integers("ids", {B, T}, DType::kI32, ids);
  c.input("table", {V, C}, {-1, 1});
  c.run = [](const Named<Var>& in) {
    return std::vector{ops::embedding(in["ids"].value(), in["table"], kFirst)};
  };
  c.reference = [](const Named<Values>& in) {
    Values y;
    for (const double id : in["ids"]) {
      const int64_t row = static_cast<int64_t>(id) - kFirst;
      for (int64_t i = 0; i < C; ++i)
        y.push_back(row >= 0 && row < V ? in["table"][static_cast<size_t>(row * C + i)] : 0.0);
    }
    return Outputs{y};
  };
  c.check();
}

}  // namespace
}  // namespace rookery::test
