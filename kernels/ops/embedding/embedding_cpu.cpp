// embedding_cpu.cpp: copies of rows; for the gradient a thread owns a range of columns.
#include <cstring>

#include "kernels/ops/embedding/embedding.h"

namespace rookery::RK_BACKEND {

void embedding_forward(const EmbeddingArgs& a) {
  const size_t row = static_cast<size_t>(a.table.dim(1)) * dtype_size(a.table.dtype());
  const int64_t vocab = a.table.dim(0);
  parallel_for(a.y.device().pool(), a.ids.numel(), 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t v = a.ids.data<int32_t>()[i] - a.first;
      if (v >= 0 && v < vocab) {
        std::memcpy(a.y.raw() + i * row, a.table.raw() + v * row, row);
      } else {
        std::memset(a.y.raw() + i * row, 0, row);
      }
    }
  });
}

void embedding_backward(const EmbeddingGrad& a) {
  const int64_t tokens = a.ids.numel(), vocab = a.dtable.tensor.dim(0), channels = a.dtable.tensor.dim(1);
  dispatch_float(a.dy.dtype(), [&]<class T>() {
    parallel_for(a.dy.device().pool(), channels, 16, [&](int64_t begin, int64_t end) {
      T* out = a.dtable.tensor.data<T>();
      const T* in = a.dy.data<T>();
      if (!a.dtable.accumulate)
        for (int64_t v = 0; v < vocab; ++v)
          std::memset(out + v * channels + begin, 0, (end - begin) * sizeof(T));
      for (int64_t i = 0; i < tokens; ++i) {
        const int64_t row = a.ids.data<int32_t>()[i] - a.first;
        if (row < 0 || row >= vocab) continue;
        T* to = out + row * channels;
#pragma omp simd
        for (int64_t c = begin; c < end; ++c) to[c] += in[i * channels + c];
      }
    });
  });
}

}  // namespace rookery::RK_BACKEND
