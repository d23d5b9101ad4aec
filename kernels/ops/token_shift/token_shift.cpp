// token_shift.cpp: shapes, scratch, tape record.
#include "kernels/ops/token_shift/token_shift.h"

namespace rookery::ops {
namespace {

constexpr auto kForward = RK_KERNEL(shift_forward);
constexpr auto kBackward = RK_KERNEL(shift_backward);

void check_previous(const Previous& p, const Shape& x, std::string_view who) {
  if (p.carried.defined()) check_shape(p.carried.value(), {x[0], x[2]}, str(who, " carried token"));
  if (p.doc_start.defined()) check_shape(p.doc_start, {x[0], x[1]}, str(who, " doc_start"));
}

GradTarget target(Grads& g, int input) { return g.wants(input) ? g.into(input) : GradTarget{}; }
// The kernel adds to dx what later rows send back, so it needs the memory also when nobody asks for it.
GradTarget target_of_x(Grads& g, const Tensor& x) {
  return g.wants(0) ? g.into(0) : GradTarget{empty_like(x), false};
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
  const int64_t parts = device.pool().num_threads(), R = w2.defined() ? w2.shape()[1] : 0;
  ShiftArgs args{x.value(),
                 previous.carried.value(),
                 previous.doc_start,
                 count,
                 {},
                 {},
                 h.value(),
                 w2.value(),
                 R > 0 ? empty({parts, kShiftBlock, C}, dtype, device) : Tensor()};
  std::vector<Tensor> computed;
  for (int q = 0; q < count; ++q) {
    if (!mu[q].defined()) continue;
    RK_CHECK(mu[q].value().numel() == C, "[", name, "] mu ", mu[q].shape(), " for ", C, " channels");
    args.mu[q] = mu[q].value();
    computed.push_back(args.out[q] = empty_like(x.value()));
  }
  kForward(device, args);
  auto mu_or_none = [&](int q) { return q < count ? mu[q] : Var(); };
  static_assert(kMaxMixes == 6);
  const std::vector<Var> vars = record(
      name,
      {x, previous.carried, h, w2, mu_or_none(0), mu_or_none(1), mu_or_none(2), mu_or_none(3), mu_or_none(4),
       mu_or_none(5)},
      computed,
      [x = x.value(), carried = previous.carried.value(), doc_start = previous.doc_start, mu_values = args.mu,
       h = h.value(), w2 = w2.value(), count, parts, rank = R,
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
                    {}};
        for (int q = 0, next = 0; q < count; ++q) {
          if (mu_values[q].defined()) a.dout[q] = dcomputed[next++];
          a.dmu[q] = target(g, 4 + q);
        }
        const int64_t low_rank = rank > 0 ? kShiftBlock + count * rank : 0;
        a.scratch = empty({parts, count + kShiftBlock + 1 + low_rank, channels}, x.dtype(), x.device());
        kBackward(x.device(), a);
      });
  std::vector<Var> out(mu.size());
  for (size_t q = 0, next = 0; q < mu.size(); ++q)
    if (mu[q].defined()) out[q] = vars[next++];
  return out;
}

}  // namespace

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
