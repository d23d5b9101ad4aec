#include "trainer/nn/context.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace rookery::nn {
namespace {

Shape with_tokens(const Shape& shape, int64_t tokens) {
  std::vector<int64_t> dims(shape.begin(), shape.end());
  dims[1] = tokens;
  return Shape(std::span<const int64_t>(dims));
}

// Tokens [from, from + count) of each row of x to position `at` of the rows of `to`.
void copy_tokens(const Tensor& x, int64_t from, int64_t count, const Tensor& to, int64_t at) {
  if (to.device().type() == DeviceType::kMeta) return;
  const size_t token = x.bytes() / static_cast<size_t>(x.dim(0) * x.dim(1));
  for (int64_t b = 0; b < x.dim(0); ++b)
    std::memcpy(to.raw() + (b * to.dim(1) + at) * token, x.raw() + (b * x.dim(1) + from) * token,
                count * token);
}

}  // namespace

Tensor join_tokens(const Tensor& before, const Tensor& after) {
  if (!before.defined()) return after;
  const int64_t T1 = before.dim(1), T2 = after.dim(1);
  check_shape(before, with_tokens(after.shape(), T1), "[join_tokens] before");
  const Tensor joined = empty(with_tokens(after.shape(), T1 + T2), after.dtype(), after.device());
  copy_tokens(before, 0, T1, joined, 0);
  copy_tokens(after, 0, T2, joined, T1);
  return joined;
}

Tensor tokens_of(const Tensor& x, int64_t begin, int64_t count) {
  const int64_t T = x.dim(1);
  RK_CHECK(begin >= 0 && count > 0 && begin + count <= T, "[tokens_of] ", count, " from ", begin, " of ", T);
  if (count == T) return x;
  const Tensor part = empty(with_tokens(x.shape(), count), x.dtype(), x.device());
  copy_tokens(x, begin, count, part, 0);
  return part;
}

void SeqContext::leave_last_token(const std::string& slot, const Var& x) {
  if (!carry) return;
  const auto [B, T, C] = x.value().dims<3>("[SeqContext] x");
  Tensor last = empty({B, C}, x.value().dtype(), x.value().device());
  const size_t row = static_cast<size_t>(C) * dtype_size(last.dtype());
  if (last.device().type() != DeviceType::kMeta)
    for (int64_t b = 0; b < B; ++b)
      std::memcpy(last.raw() + b * row, x.value().raw() + ((b + 1) * T - 1) * row, row);
  states_[slot] = Var(last);
}

int64_t SeqContext::length(const std::string& slot) const {
  const auto it = histories_.find(slot);
  return it == histories_.end() ? 0 : it->second.length;
}

Tensor SeqContext::document(const std::string& slot) const {
  const auto it = histories_.find(slot);
  return it == histories_.end() ? Tensor() : it->second.document;
}

// The same after a pass over x: [B, T, ...].
Tensor SeqContext::document_after(const std::string& slot, const Shape& x) const {
  const Tensor before = document(slot);
  if (!doc_start.defined()) return before;
  const int64_t B = x[0], T = x[1], past = length(slot);
  check_shape(doc_start, {B, T}, "[SeqContext] doc_start");
  const Tensor after = empty({B}, DType::kI32, doc_start.device());
  if (after.device().type() == DeviceType::kMeta) return after;
  for (int64_t b = 0; b < B; ++b) {
    int64_t document = before.defined() ? before.data<int32_t>()[b] : 0;
    for (int64_t t = 0; t < T; ++t)
      if (doc_start.data<uint8_t>()[b * T + t] != 0) document = past + t;
    after.data<int32_t>()[b] = static_cast<int32_t>(document);
  }
  return after;
}

size_t SeqContext::bytes() const {
  size_t sum = 0;
  for (const auto& [slot, state] : states_) sum += state.value().bytes();
  for (const auto& [slot, history] : histories_)
    sum += history.rows.bytes() + (history.document.defined() ? history.document.bytes() : 0);
  return sum;
}

Var SeqContext::append(const std::string& slot, const Var& x) {
  const int64_t past = length(slot), B = x.shape()[0], T = x.shape()[1];
  if (!carry && past == 0) return x;
  RK_CHECK(!x.tracked(), "[SeqContext] ", slot, " is kept: no gradient goes to earlier passes");
  const Tensor old = past > 0 ? histories_[slot].rows : Tensor();
  const int64_t capacity = past > 0 ? old.dim(1) : 0;
  std::vector<int64_t> dims(x.shape().begin(), x.shape().end());
  Tensor rows = old;
  auto put = [&](const Tensor& from, int64_t count, int64_t at) {  // `count` rows of each sequence
    const size_t row = x.value().bytes() / static_cast<size_t>(B * T);
    if (rows.device().type() == DeviceType::kMeta) return;
    for (int64_t b = 0; b < B; ++b)
      std::memcpy(rows.raw() + (b * rows.dim(1) + at) * row, from.raw() + b * from.dim(1) * row, count * row);
  };
  if (!carry || past + T > capacity) {
    dims[1] = carry ? std::max(past + T, 2 * capacity) : past + T;
    rows = empty(Shape(std::span<const int64_t>(dims)), x.value().dtype(), x.value().device());
    if (past > 0) put(old, past, 0);
  }
  dims[1] = rows.dim(1);
  check_shape(rows, Shape(std::span<const int64_t>(dims)), str("[SeqContext] ", slot));
  put(x.value(), T, past);
  if (carry) histories_[slot] = {rows, past + T, document_after(slot, x.shape())};
  return rows;
}

}  // namespace rookery::nn
