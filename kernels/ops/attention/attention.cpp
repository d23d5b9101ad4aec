// attention.cpp: shapes, splits, scratch, tape record.
#include "kernels/ops/attention/attention.h"

namespace rookery::ops {
namespace {

constexpr auto kForward = RK_KERNEL(attention_forward);
constexpr auto kBackward = RK_KERNEL(attention_backward);

}  // namespace

Var attention(const Var& q, const Var& k, const Var& v, const AttentionOptions& o) {
  const auto [B, T, Hq, D] = q.value().dims<4>("[attention] q");
  const auto [Bk, S, Hkv, Dk] = k.value().dims<4>("[attention] k");
  check_shape(v.value(), k.shape(), "[attention] v");
  RK_CHECK(Bk == B && Dk == D && Hkv > 0 && Hq % Hkv == 0 && o.past >= 0 && S >= o.past + T, "[attention] q ",
           q.shape(), " after ", o.past, " tokens, and k ", k.shape(), " do not fit");
  RK_CHECK(o.scale > 0, "[attention] scale ", o.scale);
  if (o.doc_start.defined()) check_shape(o.doc_start, {B, T}, "[attention] doc_start");
  Device& device = q.value().device();
  const DType dtype = q.value().dtype();
  const int64_t threads = device.pool().num_threads();

  AttentionArgs a{q.value(), k.value(), v.value(), o.doc_start, o.scale, o.past, {}, {}, {}, {}, {}};
  a.y = empty_like(q.value());
  a.top = empty({B, Hq, T}, dtype, device);
  a.weight = empty({B, Hq, T}, dtype, device);
  if (o.doc_start.defined()) a.first = empty({B, T}, DType::kI32, device);
  a.scratch = empty({threads, attention_forward_scratch(D)}, dtype, device);
  kForward(device, a);
  a.scratch = Tensor();
  a.doc_start = Tensor();
  return record("attention", {q, k, v}, a.y, [a, threads](const Tensor& dy, Grads& g) {
    Device& dev = a.q.device();
    const auto target = [&](int i) { return g.wants(i) ? g.into(i) : GradTarget{}; };
    // A thread takes whole key heads; where these are fewer, their keys are split.
    const int64_t heads = a.k.dim(0) * a.k.dim(2), splits = (threads + heads - 1) / heads;
    AttentionGrad b{
        a.q,       a.k,       a.v,    a.scale,           a.past, a.y, a.top, a.weight, a.first, dy, target(0),
        target(1), target(2), splits, empty_like(a.top), {},     {}};
    if (splits > 1 && b.dq.tensor.defined())
      b.parts = empty({splits, a.q.dim(0), a.q.dim(1), a.q.dim(2), a.q.dim(3)}, dy.dtype(), dev);
    b.scratch = empty({threads, attention_backward_scratch(a.q.dim(3))}, dy.dtype(), dev);
    kBackward(dev, b);
  });
}

}  // namespace rookery::ops
