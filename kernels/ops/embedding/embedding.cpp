// embedding.cpp: shapes, scratch, tape record.
#include "kernels/ops/embedding/embedding.h"

namespace rookery::ops {
namespace {

constexpr auto kForward = RK_KERNEL_GPU(embedding_forward);
constexpr auto kBackward = RK_KERNEL_GPU(embedding_backward);

}  // namespace

Var embedding(const Tensor& ids, const Var& table, int64_t first) {
  const auto [B, T] = ids.dims<2>("[embedding] ids");
  const auto [V, C] = table.value().dims<2>("[embedding] table");
  Device& device = table.value().device();
  Tensor y = empty({B, T, C}, table.value().dtype(), device);
  kForward(device, {ids, table.value(), y, first});
  return record("embedding", {table}, y, [ids, first](const Tensor& dy, Grads& g) {
    Device& on = dy.device();
    const Tensor order = on.target() == DeviceType::kCpu ? Tensor() : empty(ids.shape(), DType::kI32, on);
    kBackward(on, {ids, dy, first, g.into(0), order});
  });
}

}  // namespace rookery::ops
