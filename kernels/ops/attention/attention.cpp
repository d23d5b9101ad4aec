// attention.cpp: shapes, splits, scratch, tape record.
#include "kernels/ops/attention/attention.h"

#include <algorithm>

#include "kernels/ops/attention/parted_attention.h"

namespace rookery::ops {
namespace {

constexpr auto kForward = RK_KERNEL_GPU(attention_forward);
constexpr auto kBackward = RK_KERNEL_GPU(attention_backward);

bool on_gpu(const Device& device) { return device.target() != DeviceType::kCpu; }

// With all but keys, values, outputs and scratch.
AttentionArgs make_args(const Tensor& q, const AttentionOptions& o) {
  const auto [B, T, Hq, D] = q.dims<4>("[attention] q");
  RK_CHECK(o.scale > 0 && o.past >= 0, "[attention] scale ", o.scale, ", past ", o.past);
  if (o.doc_start.defined()) check_shape(o.doc_start, {B, T}, "[attention] doc_start");
  if (o.document.defined()) check_shape(o.document, {B}, "[attention] document");
  Device& device = q.device();
  if (on_gpu(device) && D > kAttentionGpuHead)
    fail(ExitCode::kUnavailable, kNoKernel, "operation attention: found heads of size ", D,
         ", expected at most ", kAttentionGpuHead, " on device ", device.target(),
         "; mend it by device: cpu");
  return {q, {}, {}, o.doc_start, o.document, o.scale, o.past, {}, {}, {}, {}, {}};
}

void make_outputs(AttentionArgs& a) {
  const auto [B, T, Hq, D] = a.q.dims<4>("[attention] q");
  Device& device = a.q.device();
  a.y = empty_like(a.q);
  a.top = empty({B, Hq, T}, sum_dtype(a.q.dtype()), device);
  a.weight = empty_like(a.top);
  if (a.doc_start.defined() || a.document.defined()) a.first = empty({B, T}, DType::kI32, device);
  if (!on_gpu(device))
    a.scratch = empty({device.pool().num_threads(), attention_forward_scratch(D)}, a.q.dtype(), device);
}

void set_keys(AttentionArgs& a, const Tensor& k, const Tensor& v) {
  const auto [B, S, Hkv, D] = k.dims<4>("[attention] k");
  check_shape(v, k.shape(), "[attention] v");
  RK_CHECK(B == a.q.dim(0) && D == a.q.dim(3) && Hkv > 0 && a.q.dim(2) % Hkv == 0, "[attention] q ",
           a.q.shape(), " and k ", k.shape(), " do not fit");
  a.k = k;
  a.v = v;
}

// a: with keys, values and outputs.
void run_backward(const AttentionArgs& a, const Tensor& dy, const GradTarget& dq, const GradTarget& dk,
                  const GradTarget& dv) {
  Device& dev = a.q.device();
  const int64_t threads = dev.pool().num_threads();
  // A thread takes whole key heads; where these are fewer, their keys are split.
  const int64_t heads = a.k.dim(0) * a.k.dim(2);
  const int64_t splits = on_gpu(dev) ? 1 : (threads + heads - 1) / heads;
  AttentionGrad b{a.q, a.k, a.v,    a.scale,           a.past, a.y, a.top, a.weight, a.first, dy, dq,
                  dk,  dv,  splits, empty_like(a.top), {},     {},  a.rest};
  if (splits > 1 && b.dq.tensor.defined())
    b.parts = empty({splits, a.q.dim(0), a.q.dim(1), a.q.dim(2), a.q.dim(3)}, dy.dtype(), dev);
  if (!on_gpu(dev)) b.scratch = empty({threads, attention_backward_scratch(a.q.dim(3))}, dy.dtype(), dev);
  kBackward(dev, b);
}

}  // namespace

Var attention(const Var& q, const Var& k, const Var& v, const AttentionOptions& o) {
  AttentionArgs a = make_args(q.value(), o);
  set_keys(a, k.value(), v.value());
  RK_CHECK(k.shape()[1] >= o.past + q.shape()[1], "[attention] q ", q.shape(), " after ", o.past,
           " tokens needs more keys than ", k.shape());
  const bool tracked = q.tracked() || k.tracked() || v.tracked();
  const std::vector<Tensor> made = dear({q, k, v}, [&] {
    make_outputs(a);
    if (on_gpu(a.q.device()) && a.y.dtype() == DType::kBF16 && tracked) a.rest = empty_like(a.y);
    kForward(a.q.device(), a);
    return std::vector{a.y, a.top, a.weight, a.first, a.rest};
  });
  a.y = made[0], a.top = made[1], a.weight = made[2], a.first = made[3], a.rest = made[4];
  a.scratch = a.doc_start = a.document = Tensor();
  return record("attention", {q, k, v}, a.y, [a](const Tensor& dy, Grads& g) {
    const auto target = [&](int i) { return g.wants(i) ? g.into(i) : GradTarget{}; };
    run_backward(a, dy, target(0), target(1), target(2));
  });
}

Tensor attention_in_parts(const Tensor& q, int64_t first_key, int64_t part_size, const AttentionPart& part,
                          const AttentionOptions& o) {
  PartedAttention attention(q, o);
  const int64_t end = o.past + q.dim(1);
  RK_CHECK(part_size > 0 && first_key >= 0 && first_key <= o.past, "[attention_in_parts] from key ",
           first_key, " in parts of ", part_size, " up to a query after ", o.past);
  for (int64_t key = first_key; key < end; key += part_size) {
    const int64_t count = std::min(part_size, end - key);
    const auto [k, v] = part(key, count);
    RK_CHECK(k.dim(1) == count, "[attention_in_parts] ", k.shape(), " for ", count, " keys");
    attention.add(k, v, key, key + count == end);
  }
  return attention.y();
}

PartedAttention::PartedAttention(const Tensor& q, const AttentionOptions& o)
    : args_(make_args(q, o)), past_(o.past) {
  make_outputs(args_);
  if (on_gpu(q.device())) args_.sums = empty(q.shape(), args_.top.dtype(), q.device());
}

void PartedAttention::add(const Tensor& k, const Tensor& v, int64_t begin, bool last) {
  set_keys(args_, k, v);
  args_.key = begin;
  args_.past = past_ - begin;
  args_.last_part = last;
  kForward(args_.q.device(), args_);
  args_.k = args_.v = Tensor();
  args_.first_part = false;
  if (args_.first.defined()) {
    first_.emplace_back(begin, args_.first);
    if (!last) args_.first = empty_like(args_.first);
  }
  if (last) args_.sums = args_.scratch = Tensor();
}

void PartedAttention::backward(const Tensor& dy, const Tensor& k, const Tensor& v, int64_t begin,
                               const GradTarget& dq, const GradTarget& dk, const GradTarget& dv) const {
  AttentionArgs a = args_;
  set_keys(a, k, v);
  a.past = past_ - begin;
  for (const auto& [key, first] : first_)
    if (key == begin) a.first = first;
  run_backward(a, dy, dq, dk, dv);
}

}  // namespace rookery::ops
