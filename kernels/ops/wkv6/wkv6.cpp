// wkv6.cpp: shapes, strips, scratch, tape record.
#include "kernels/ops/wkv6/wkv6.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace rookery::ops {
namespace {

constexpr auto kForward = RK_KERNEL_GPU(wkv6_forward);
constexpr auto kBackward = RK_KERNEL_GPU(wkv6_backward);

// Both operations: the shape of w says which.
WkvOut recurrence(std::string_view name, const Var& r, const Var& k, const Var& v, const Var& w, const Var& u,
                  const Var& state0, const Tensor& doc_start) {
  const auto [B, T, H, N] = r.value().dims<4>(str("[", name, "] r"));
  const bool fixed_decay = name == "wkv5";
  const auto expect = [&](const char* what, const Tensor& x, const Shape& shape) {
    check_shape(x, shape, str("[", name, "] ", what));
  };
  expect("k", k.value(), r.shape());
  expect("v", v.value(), r.shape());
  expect("w", w.value(), fixed_decay ? Shape{H, N} : r.shape());
  expect("u", u.value(), {H, N});
  if (state0.defined()) expect("state0", state0.value(), {B, H, N, N});
  if (doc_start.defined()) expect("doc_start", doc_start, {B, T});
  Device& device = r.value().device();
  const DType dtype = r.value().dtype(), state_dtype = dtype == DType::kBF16 ? DType::kF32 : dtype;
  RK_CHECK(!state0.defined() || state0.value().dtype() == state_dtype, "[", name, "] state0 is ",
           state0.value().dtype(), ", expected ", state_dtype);
  const bool gpu = device.target() != DeviceType::kCpu;
  if (gpu && N > kWkv6GpuHead)
    fail(ExitCode::kUnavailable, kNoKernel, "operation ", name, ": found heads of size ", N,
         ", expected at most ", kWkv6GpuHead, " on device ", device.target(), "; mend it by device: cpu");
  const int64_t threads = device.pool().num_threads(), segment = gpu ? kWkv6GpuSegment : kWkv6Segment;
  // Heads of all sequences are shared out over the threads; where they are fewer, their columns are cut too.
  const int64_t strips =
      gpu ? 1 : std::clamp<int64_t>((threads + B * H - 1) / (B * H), 1, wkv6_padded(N) / kWkv6Pad);

  const std::array inputs{r, k, v, w, u, state0};
  const bool differentiable =
      std::any_of(inputs.begin(), inputs.end(), [](const Var& x) { return x.tracked(); });
  const auto compute = [&, heads = H, size = N, batch = B, tokens = T] {
    const Tensor out = empty_like(r.value()), last = empty({batch, heads, size, size}, state_dtype, device);
    Tensor between;
    if (differentiable && tokens > segment)
      between = empty({batch, (tokens - 1) / segment, heads, size, size}, state_dtype, device);
    kForward(device,
             {r.value(), k.value(), v.value(), w.value(), u.value(), state0.value(), doc_start, out, last,
              between, strips, gpu ? Tensor() : empty({threads, wkv6_forward_scratch(size)}, dtype, device)});
    return std::vector{out, last, between};
  };
  const std::vector<Tensor> made = dear({r, k, v, w, u, state0}, compute);
  const Tensor &y = made[0], &state = made[1];
  const auto backward = [=, r = r.value(), k = k.value(), v = v.value(), w = w.value(), u = u.value(),
                         state0 = state0.value(), saved = made[2]](std::span<const Tensor> grad, Grads& g) {
    Device& dev = r.device();
    const Shape channel_parts{B * H * strips, wkv6_padded(N)};
    const Tensor dy = grad[0].defined() ? grad[0] : zeros(r.shape(), dtype, dev);
    Wkv6Grad a{r,  k,  v,  w,  u,  state0, doc_start, saved, dy, grad[1], {},
               {}, {}, {}, {}, {}, strips, {},        {},    {}, {}};
    for (Tensor* d : {&a.dr, &a.dk, &a.dv}) *d = empty_like(r);
    if (!fixed_decay) {
      a.dw.tensor = empty_like(r);
    } else {
      if (g.wants(3)) a.dw = g.into(3);
      a.dw_parts = empty(channel_parts, state_dtype, dev);
    }
    if (g.wants(4)) a.du = g.into(4);
    if (g.wants(5)) a.dstate0 = empty_like(state0);
    a.scratch = gpu ? empty({B, H, kWkv6GpuScratch}, state_dtype, dev)
                    : empty({threads, wkv6_backward_scratch(T, N)}, dtype, dev);
    a.du_parts = empty(channel_parts, state_dtype, dev);
    if (strips > 1) a.parts = empty({strips, 3, B, T, H, N}, dtype, dev);
    kBackward(dev, a);
    g.give(0, a.dr), g.give(1, a.dk), g.give(2, a.dv);
    if (!fixed_decay) g.give(3, a.dw.tensor);
    if (g.wants(5)) g.give(5, a.dstate0);
  };
  std::vector<Var> out = record(name, {r, k, v, w, u, state0}, std::array{y, state}, backward);
  return {out[0], out[1]};
}

}  // namespace

WkvOut wkv6(const Var& r, const Var& k, const Var& v, const Var& w, const Var& u, const Var& state0,
            const Tensor& doc_start) {
  return recurrence("wkv6", r, k, v, w, u, state0, doc_start);
}
WkvOut wkv5(const Var& r, const Var& k, const Var& v, const Var& w, const Var& u, const Var& state0,
            const Tensor& doc_start) {
  return recurrence("wkv5", r, k, v, w, u, state0, doc_start);
}

}  // namespace rookery::ops
