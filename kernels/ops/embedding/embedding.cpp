// embedding.cpp: copies of rows; memory-bound, so one body serves every instruction set.
#include "kernels/ops/embedding/embedding.h"

#include <cstring>

#include "kernels/ops/backend.h"

namespace rookery::ops {

Var embedding(const Tensor& ids, const Var& table) {
  const auto [B, T] = ids.dims<2>("[embedding] ids");
  const auto [V, C] = table.value().dims<2>("[embedding] table");
  Device& device = table.value().device();
  check_cpu("embedding", device);
  Tensor y = empty({B, T, C}, table.value().dtype(), device);
  const int64_t tokens = B * T, channels = C, vocab = V;
  const size_t row = static_cast<size_t>(C) * dtype_size(y.dtype());
  if (device.type() != DeviceType::kMeta)
    parallel_for(device.pool(), tokens, 256, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        std::memcpy(y.raw() + i * row, table.value().raw() + ids.data<int32_t>()[i] * row, row);
    });
  return record("embedding", {table}, y, [ids, tokens, channels, vocab](const Tensor& dy, Grads& g) {
    if (!g.wants(0)) return;
    const GradTarget target = g.into(0);
    if (dy.device().type() == DeviceType::kMeta) return;
    dispatch_float(dy.dtype(), [&]<class F>() {
      // A thread owns a range of columns.
      parallel_for(dy.device().pool(), channels, 16, [&](int64_t begin, int64_t end) {
        F* out = target.tensor.data<F>();
        const F* in = dy.data<F>();
        if (!target.accumulate)
          for (int64_t v = 0; v < vocab; ++v)
            std::memset(out + v * channels + begin, 0, (end - begin) * sizeof(F));
        for (int64_t i = 0; i < tokens; ++i) {
          F* to = out + ids.data<int32_t>()[i] * channels;
#pragma omp simd
          for (int64_t c = begin; c < end; ++c) to[c] += in[i * channels + c];
        }
      });
    });
  });
}

}  // namespace rookery::ops
