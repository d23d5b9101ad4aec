#include "trainer/nn/context.h"

#include <cstring>

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

}  // namespace rookery::nn
