#include "trainer/nn/context.h"

#include <algorithm>
#include <vector>

namespace rookery::nn {
namespace {

Shape with_tokens(const Shape& shape, int64_t tokens) {
  std::vector<int64_t> dims(shape.begin(), shape.end());
  dims[1] = tokens;
  return Shape(std::span<const int64_t>(dims));
}

}  // namespace

Tensor join_tokens(const Tensor& before, const Tensor& after) {
  if (!before.defined()) return after;
  const int64_t T1 = before.dim(1), T2 = after.dim(1);
  check_shape(before, with_tokens(after.shape(), T1), "[join_tokens] before");
  const Tensor joined = empty(with_tokens(after.shape(), T1 + T2), after.dtype(), after.device());
  copy_columns(before, 0, T1, joined, 0);
  copy_columns(after, 0, T2, joined, T1);
  return joined;
}

Tensor tokens_of(const Tensor& x, int64_t begin, int64_t count) {
  const int64_t T = x.dim(1);
  RK_CHECK(begin >= 0 && count > 0 && begin + count <= T, "[tokens_of] ", count, " from ", begin, " of ", T);
  if (count == T) return x;
  const Tensor part = empty(with_tokens(x.shape(), count), x.dtype(), x.device());
  copy_columns(x, begin, count, part, 0);
  return part;
}

int64_t SeqContext::length(const std::string& slot) const {
  const auto it = histories_.find(slot);
  return it == histories_.end() ? 0 : it->second.length;
}

Tensor SeqContext::document(const std::string& slot) const {
  const auto it = histories_.find(slot);
  return it == histories_.end() ? row_document : it->second.document;
}

// The same after a pass over x: [B, T, ...].
Tensor SeqContext::document_after(const std::string& slot, const Shape& x) const {
  const Tensor before = document(slot);
  if (!doc_start.defined()) return before;
  const int64_t B = x[0], T = x[1], past = length(slot);
  check_shape(doc_start, {B, T}, "[SeqContext] doc_start");
  Device& device = doc_start.device();
  std::vector<int32_t> after(static_cast<size_t>(B), 0);
  if (device.type() != DeviceType::kMeta) {
    if (before.defined()) download(before, after.data());
    std::vector<uint8_t> starts(doc_start.bytes());
    download(doc_start, starts.data());
    for (int64_t b = 0; b < B; ++b)
      for (int64_t t = 0; t < T; ++t)
        if (starts[static_cast<size_t>(b * T + t)] != 0)
          after[static_cast<size_t>(b)] = static_cast<int32_t>(past + t);
  }
  return tensor_from(std::span<const int32_t>(after), {B}, DType::kI32, device);
}

size_t SeqContext::bytes() const {
  size_t sum = 0;
  for (const auto& [slot, state] : states_) sum += state.value().bytes();
  for (const auto& [slot, history] : histories_)
    sum += history.rows.bytes() + (history.document.defined() ? history.document.bytes() : 0);
  return sum;
}

Var SeqContext::append(const std::string& slot, const Var& x) {
  const int64_t past = length(slot), T = x.shape()[1];
  if (!carry && past == 0) return x;
  RK_CHECK(!x.tracked(), "[SeqContext] ", slot, " is kept: no gradient goes to earlier passes");
  const Tensor old = past > 0 ? histories_[slot].rows : Tensor();
  const int64_t capacity = past > 0 ? old.dim(1) : 0;
  std::vector<int64_t> dims(x.shape().begin(), x.shape().end());
  Tensor rows = old;
  if (!carry || past + T > capacity) {
    dims[1] = carry ? std::max(past + T, 2 * capacity) : past + T;
    rows = empty(Shape(std::span<const int64_t>(dims)), x.value().dtype(), x.value().device());
    if (past > 0) copy_columns(old, 0, past, rows, 0);
  }
  dims[1] = rows.dim(1);
  check_shape(rows, Shape(std::span<const int64_t>(dims)), str("[SeqContext] ", slot));
  copy_columns(x.value(), 0, T, rows, past);
  if (carry) histories_[slot] = {rows, past + T, document_after(slot, x.shape())};
  return rows;
}

}  // namespace rookery::nn
