#include "trainer/nn/context.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace rookery::nn {

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
  if (carry) histories_[slot] = {rows, past + T};
  return rows;
}

}  // namespace rookery::nn
