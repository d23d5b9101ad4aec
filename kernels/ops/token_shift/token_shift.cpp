// token_shift.cpp: shapes, scratch, tape record.
#include "kernels/ops/token_shift/token_shift.h"

#include "kernels/ops/matmul/product.h"

namespace rookery::ops {
namespace {

constexpr auto kForward = RK_KERNEL_GPU(shift_forward);
constexpr auto kBackward = RK_KERNEL_GPU(shift_backward);

GradTarget target(Grads& g, int input) { return g.wants(input) ? g.into(input) : GradTarget{}; }
bool on_cpu(const Tensor& x) { return x.device().target() == DeviceType::kCpu; }
// The CPU's kernel adds to dx what later rows send back, so it needs the memory also when nobody asks for it.
GradTarget target_of_x(Grads& g, const Tensor& x) {
  return g.wants(0) || !on_cpu(x) ? target(g, 0) : GradTarget{empty_like(x), false};
}

// The parts of h [M, Q R], w2 [Q, R, C] and m [Q, M, C] that belong to mix q.
struct MixParts {
  int64_t q, M, C, R, QR;
  Matrix h(const Tensor& t, bool transposed = false) const { return {t, QR, transposed, q * R}; }
  Matrix w2(const Tensor& t, bool transposed = false) const { return {t, C, transposed, q * R * C}; }
  Matrix m(const Tensor& t) const { return {t, C, false, q * M * C}; }
};

// On a GPU: m_q of those mixes that `wanted` names.
Tensor mix_weights(const Tensor& x, const Tensor& h, const Tensor& w2, int count,
                   const std::array<Tensor, kMaxMixes>& wanted) {
  const int64_t C = x.dim(2), M = x.numel() / C, R = w2.dim(1);
  Tensor m = empty({count, M, C}, x.dtype(), x.device());
  for (int q = 0; q < count; ++q) {
    const MixParts part{q, M, C, R, count * R};
    if (wanted[q].defined()) product(M, C, R, part.h(h), part.w2(w2), false, part.m(m));
  }
  return m;
}

// From the gradients of m_q.
void low_rank_backward(const ShiftGrad& a) {
  const int64_t C = a.x.dim(2), M = a.x.numel() / C, R = a.w2.dim(1);
  for (int q = 0; q < a.count; ++q) {
    const MixParts part{q, M, C, R, a.count * R};
    if (a.dh.tensor.defined())
      product(M, R, C, part.m(a.m), part.w2(a.w2, true), a.dh.accumulate, part.h(a.dh.tensor));
    if (a.dw2.tensor.defined())
      product(R, C, M, part.h(a.h, true), part.m(a.m), a.dw2.accumulate, part.w2(a.dw2.tensor));
  }
}

// h and w2 undefined: mu alone.
std::vector<Var> mix(std::string_view name, const Var& x, const Previous& previous,
                     const std::vector<Var>& mu, const Var& h, const Var& w2) {
  const auto [B, T, C] = x.value().dims<3>(str("[", name, "] x"));
  check_previous(previous, x.shape(), str("[", name, "]"));
  const int count = static_cast<int>(mu.size());
  RK_CHECK(count >= 1 && count <= kMaxMixes, "[", name, "] 1 to ", kMaxMixes, " mixes, got ", count);
  Device& device = x.value().device();
  const DType dtype = x.value().dtype();
  const int64_t parts = sum_parts(device, B * T), R = w2.defined() ? w2.shape()[1] : 0;
  ShiftArgs args{
      x.value(), previous.carried.value(), previous.doc_start, count, {}, {}, h.value(), w2.value(), {}, {}};
  if (R > 0 && on_cpu(x.value())) args.scratch = empty({parts, kShiftBlock, C}, dtype, device);
  std::vector<Tensor> computed;
  for (int q = 0; q < count; ++q) {
    if (!mu[q].defined()) continue;
    RK_CHECK(mu[q].value().numel() == C, "[", name, "] mu ", mu[q].shape(), " for ", C, " channels");
    args.mu[q] = mu[q].value();
    computed.push_back(args.out[q] = empty_like(x.value()));
  }
  if (R > 0 && !on_cpu(x.value())) args.m = mix_weights(args.x, args.h, args.w2, count, args.out);
  kForward(device, args);
  auto mu_or_none = [&](int q) { return q < count ? mu[q] : Var(); };
  static_assert(kMaxMixes == 6);
  const std::vector<Var> vars =
      record(name,
             {x, previous.carried, h, w2, mu_or_none(0), mu_or_none(1), mu_or_none(2), mu_or_none(3),
              mu_or_none(4), mu_or_none(5)},
             computed,
             [x = x.value(), carried = previous.carried.value(), doc_start = previous.doc_start,
              mu_values = args.mu, h = h.value(), w2 = w2.value(), count, parts, rank = R,
              channels = C](std::span<const Tensor> dcomputed, Grads& g) {
               ShiftGrad a{x,
                           carried,
                           doc_start,
                           count,
                           mu_values,
                           {},
                           {},
                           target_of_x(g, x),
                           target(g, 1),
                           target(g, 2),
                           target(g, 3),
                           h,
                           w2,
                           {},
                           {}};
               for (int q = 0, next = 0; q < count; ++q) {
                 if (mu_values[q].defined()) a.dout[q] = dcomputed[next++];
                 a.dmu[q] = target(g, 4 + q);
               }
               const int64_t low_rank = rank > 0 ? kShiftBlock + count * rank : 0;
               const int64_t cpu_rows = on_cpu(x) ? kShiftBlock + low_rank : 0;
               a.scratch = empty({parts, count + 1 + cpu_rows, channels}, sum_dtype(x.dtype()), x.device());
               if (rank > 0 && !on_cpu(x)) a.m = mix_weights(x, h, w2, count, a.dout);
               kBackward(x.device(), a);
               if (a.m.defined()) low_rank_backward(a);
             });
  std::vector<Var> out(mu.size());
  for (size_t q = 0, next = 0; q < mu.size(); ++q)
    if (mu[q].defined()) out[q] = vars[next++];
  return out;
}

}  // namespace

void check_previous(const Previous& p, const Shape& x, std::string_view who) {
  if (p.carried.defined()) check_shape(p.carried.value(), {x[0], x[2]}, str(who, " carried token"));
  if (p.doc_start.defined()) check_shape(p.doc_start, {x[0], x[1]}, str(who, " doc_start"));
}

std::vector<Var> shift_lerp(const Var& x, const Previous& previous, const std::vector<Var>& mu) {
  return mix("shift_lerp", x, previous, mu, Var(), Var());
}

std::vector<Var> ddlerp(const Var& x, const Previous& previous, const std::vector<Var>& mu, const Var& h,
                        const Var& w2) {
  const auto [B, T, C] = x.value().dims<3>("[ddlerp] x");
  const auto [Q, R, C2] = w2.value().dims<3>("[ddlerp] w2");
  RK_CHECK(Q == static_cast<int64_t>(mu.size()) && C2 == C, "[ddlerp] w2 ", w2.shape(), " for ", mu.size(),
           " mixes of ", C, " channels");
  check_shape(h.value(), {B, T, Q * R}, "[ddlerp] h");
  return mix("ddlerp", x, previous, mu, h, w2);
}

}  // namespace rookery::ops
