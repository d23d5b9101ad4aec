// wkv7.cpp: shapes, strips, scratch, tape record.
#include "kernels/ops/wkv7/wkv7.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace rookery::ops {
namespace {

constexpr auto kForward = RK_KERNEL_GPU(wkv7_forward);
constexpr auto kBackward = RK_KERNEL_GPU(wkv7_backward);

}  // namespace

Wkv7Out wkv7(const Var& r, const Var& w, const Var& k, const Var& v, const Var& a, const Var& b,
             Wkv7Decay decay, const Var& state0, const Tensor& doc_start) {
  const auto [B, T, H, N] = r.value().dims<4>("[wkv7] r");
  for (const auto& [name, x] : {std::pair("w", &w), {"k", &k}, {"v", &v}, {"a", &a}, {"b", &b}}) {
    check_shape(x->value(), r.shape(), str("[wkv7] ", name));
  }
  if (state0.defined()) check_shape(state0.value(), {B, H, N, N}, "[wkv7] state0");
  if (doc_start.defined()) check_shape(doc_start, {B, T}, "[wkv7] doc_start");
  Device& device = r.value().device();
  const DType dtype = r.value().dtype(), state_dtype = dtype == DType::kBF16 ? DType::kF32 : dtype;
  RK_CHECK(!state0.defined() || state0.value().dtype() == state_dtype, "[wkv7] state0 is ",
           state0.value().dtype(), ", expected ", state_dtype);
  const bool gpu = device.target() != DeviceType::kCpu;
  if (gpu && N > kWkv7GpuHead)
    fail(ExitCode::kUnavailable, kNoKernel, "operation wkv7: found heads of size ", N, ", expected at most ",
         kWkv7GpuHead, " on device ", device.target(), "; mend it by device: cpu");
  const int64_t threads = device.pool().num_threads(), segment = gpu ? kWkv7GpuSegment : kWkv7Segment;
  // Heads of all sequences are shared out over the threads; where they are fewer, their columns are cut too.
  const int64_t strips =
      gpu ? 1 : std::clamp<int64_t>((threads + B * H - 1) / (B * H), 1, wkv7_padded(N) / kWkv7Pad);

  bool tracked = false;
  for (const Var* x : {&r, &w, &k, &v, &a, &b, &state0}) tracked = tracked || x->tracked();
  const auto compute = [&, batch = B, tokens = T, heads = H, size = N] {
    const Tensor out = empty_like(r.value()), last = empty({batch, heads, size, size}, state_dtype, device);
    Tensor sa, between;
    if (tracked) sa = empty(r.shape(), state_dtype, device);
    if (tracked && tokens > segment)
      between = empty({batch, (tokens - 1) / segment, heads, size, size}, state_dtype, device);
    kForward(device, {r.value(), w.value(), k.value(), v.value(), a.value(), b.value(), state0.value(),
                      doc_start, decay, out, last, sa, between, strips,
                      gpu ? Tensor() : empty({threads, wkv7_forward_scratch(size)}, dtype, device)});
    return std::vector{out, last, sa, between};
  };
  const std::vector<Tensor> made = dear({r, w, k, v, a, b, state0}, compute);
  const Tensor &y = made[0], &state = made[1];
  // Most states are not kept: the backward pass recomputes them segment by segment. With `read`, which is as
  // large as r, that takes 6 of its 16 N^2 multiply-adds per token.
  std::vector<Var> out = record(
      "wkv7", {r, w, k, v, a, b, state0}, std::array{y, state},
      [=, r = r.value(), w = w.value(), k = k.value(), v = v.value(), a = a.value(), b = b.value(),
       state0 = state0.value(), read = made[2], saved = made[3]](std::span<const Tensor> grad, Grads& g) {
        Device& dev = r.device();
        const Tensor dy = grad[0].defined() ? grad[0] : zeros(r.shape(), dtype, dev);
        Wkv7Grad x{r,       w,  k,  v,  a,  b,  state0, doc_start, decay,  read, saved, dy,
                   grad[1], {}, {}, {}, {}, {}, {},     {},        strips, {},   {}};
        for (Tensor* d : {&x.dr, &x.dw, &x.dk, &x.dv, &x.da, &x.db}) *d = empty_like(r);
        if (g.wants(6)) x.dstate0 = empty_like(state0);
        x.scratch = gpu ? empty({B, H, kWkv7GpuScratch}, state_dtype, dev)
                        : empty({threads, wkv7_backward_scratch(T, N)}, dtype, dev);
        if (strips > 1) x.parts = empty({strips, 5, B, T, H, N}, dtype, dev);
        kBackward(dev, x);
        g.give(0, x.dr), g.give(1, x.dw), g.give(2, x.dk), g.give(3, x.dv), g.give(4, x.da), g.give(5, x.db);
        if (g.wants(6)) g.give(6, x.dstate0);
      });
  return {out[0], out[1]};
}

}  // namespace rookery::ops
