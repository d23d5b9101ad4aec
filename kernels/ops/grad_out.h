// grad_out.h: where a kernel for the GPU writes a gradient: overwriting or adding, f32 or bf16 (autograd.h:
// GradTarget).
#pragma once

#include "kernels/autograd/autograd.h"
#include "kernels/cuda/pack.h"

namespace rookery::rk {
inline namespace RK_SIDE {

struct GradOut {
  void* data = nullptr;  // null: nobody wants it
  bool is_bf16 = false, accumulate = false;

  RK_DEV bool wanted() const { return data != nullptr; }
  RK_DEV void store(int64_t i, int64_t n, const Pack& pack) const {
    if (is_bf16) {
      store_as<bf16>(i, n, pack);
    } else {
      store_as<float>(i, n, pack);
    }
  }

 private:
  template <class T>
  RK_DEV void store_as(int64_t i, int64_t n, Pack pack) const {
    if (accumulate) {
      const Pack old = load_pack(static_cast<const T*>(data), i, n);
#pragma unroll
      for (int j = 0; j < kPack; ++j) pack[j] += old[j];
    }
    store_pack(static_cast<T*>(data), i, n, pack);
  }
};

inline GradOut grad_out(const GradTarget& target) {
  GradOut out;
  if (!target.tensor.defined()) return out;
  out.data = target.tensor.raw();
  out.is_bf16 = target.tensor.dtype() == DType::kBF16;
  out.accumulate = target.accumulate;
  return out;
}

}  // namespace RK_SIDE
}  // namespace rookery::rk
