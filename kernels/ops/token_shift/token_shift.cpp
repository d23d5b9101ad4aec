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

}  // namespace

std::vector<Var> shift_lerp(const Var& x, const Previous& previous, const std::vector<Var>& mu) {
  const auto [B, T, C] = x.value().dims<3>("[shift_lerp] x");
  check_previous(previous, x.shape(), "[shift_lerp]");
  const int count = static_cast<int>(mu.size());
  RK_CHECK(count == 1 || count == 2, "[shift_lerp] 1 or 2 mixes, got ", count);
  ShiftArgs args{x.value(), previous.carried.value(), previous.doc_start, count, {}, {}, {}, {}, {}};
  std::vector<Tensor> out;
  for (int q = 0; q < count; ++q) {
    RK_CHECK(mu[q].value().numel() == C, "[shift_lerp] mu ", mu[q].shape(), " for ", C, " channels");
    args.mu[q] = mu[q].value();
    out.push_back(args.out[q] = empty_like(x.value()));
  }
  kForward(x.value().device(), args);
  return record("shift_lerp", {x, previous.carried, mu[0], count > 1 ? mu[1] : Var()}, out,
                [x = x.value(), carried = previous.carried.value(), doc_start = previous.doc_start,
                 mu_values = args.mu, count, channels = C](std::span<const Tensor> dout, Grads& g) {
                  ShiftGrad a{
                      x,  carried, doc_start, count, mu_values, {}, {}, target_of_x(g, x), target(g, 1),
                      {}, {},      {},        {},    {}};
                  for (int q = 0; q < count; ++q) {
                    a.dout[q] = dout[q];
                    a.dmu[q] = target(g, 2 + q);
                  }
                  a.scratch = empty({x.device().pool().num_threads(), count + kShiftBlock + 1, channels},
                                    x.dtype(), x.device());
                  kBackward(x.device(), a);
                });
}

std::array<Var, kNumMixes> ddlerp(const Var& x, const Previous& previous,
                                  const std::array<Var, kNumMixes>& mu, const Var& h, const Var& w2) {
  const auto [B, T, C] = x.value().dims<3>("[ddlerp] x");
  check_previous(previous, x.shape(), "[ddlerp]");
  const auto [five, R, C2] = w2.value().dims<3>("[ddlerp] w2");
  RK_CHECK(five == kNumMixes && C2 == C, "[ddlerp] w2 ", w2.shape(), " for ", C, " channels");
  check_shape(h.value(), {B, T, kNumMixes * R}, "[ddlerp] h");
  Device& device = x.value().device();
  const DType dtype = x.value().dtype();
  const int64_t parts = device.pool().num_threads();
  ShiftArgs args{x.value(),
                 previous.carried.value(),
                 previous.doc_start,
                 kNumMixes,
                 {},
                 {},
                 h.value(),
                 w2.value(),
                 empty({parts, kShiftBlock, C}, dtype, device)};
  std::vector<Tensor> out;
  for (int q = 0; q < kNumMixes; ++q) {
    RK_CHECK(mu[q].value().numel() == C, "[ddlerp] mu ", mu[q].shape(), " for ", C, " channels");
    args.mu[q] = mu[q].value();
    out.push_back(args.out[q] = empty_like(x.value()));
  }
  kForward(device, args);
  const auto vars = record("ddlerp", {x, previous.carried, h, w2, mu[0], mu[1], mu[2], mu[3], mu[4]}, out,
                           [x = x.value(), carried = previous.carried.value(), doc_start = previous.doc_start,
                            mu_values = args.mu, h = h.value(), w2 = w2.value(), parts, rank = R,
                            channels = C](std::span<const Tensor> dout, Grads& g) {
                             ShiftGrad a{x,
                                         carried,
                                         doc_start,
                                         kNumMixes,
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
                             for (int q = 0; q < kNumMixes; ++q) {
                               a.dout[q] = dout[q];
                               a.dmu[q] = target(g, 4 + q);
                             }
                             a.scratch =
                                 empty({parts, kNumMixes + 2 * kShiftBlock + 1 + kNumMixes * rank, channels},
                                       x.dtype(), x.device());
                             kBackward(x.device(), a);
                           });
  std::array<Var, kNumMixes> result;
  for (int q = 0; q < kNumMixes; ++q) result[q] = vars[q];
  return result;
}

}  // namespace rookery::ops
