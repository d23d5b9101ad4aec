// adamw_cpu.cpp: one pass over the elements; memory-bound.
#include "kernels/ops/adamw/adamw.h"

namespace rookery::RK_BACKEND {
namespace {

inline __attribute__((always_inline)) float sqrt_of(float x) { return __builtin_sqrtf(x); }
inline __attribute__((always_inline)) double sqrt_of(double x) { return __builtin_sqrt(x); }

double power(double base, int64_t n) {
  double result = 1;
  for (; n > 0; n >>= 1, base *= base)
    if (n & 1) result *= base;
  return result;
}

// Bodies take tensors by reference and numbers apart: an argument struct built here would leave its
// destructor, compiled for one instruction set, where the linker may choose it for all.
struct Rates {
  double lr, beta1, beta2, eps, weight_decay, clip;
  int64_t step;
};

template <class T>
void update(const Tensor& param, const Tensor& grads, const Tensor& m1, const Tensor& m2, int64_t begin,
            int64_t end, const Rates& a) {
  const T correct1 = static_cast<T>(1.0 / (1.0 - power(a.beta1, a.step)));
  const T correct2 = static_cast<T>(1.0 / (1.0 - power(a.beta2, a.step)));
  const T b1 = static_cast<T>(a.beta1), b2 = static_cast<T>(a.beta2), eps = static_cast<T>(a.eps),
          lr = static_cast<T>(a.lr);
  const T new1 = static_cast<T>(1.0 - a.beta1), new2 = static_cast<T>(1.0 - a.beta2);
  const T decay = static_cast<T>(a.weight_decay), clip = static_cast<T>(a.clip);
  parallel_for(param.device().pool(), end - begin, 1 << 14, [&](int64_t first, int64_t last) {
    T* __restrict p = param.data<T>() + begin;
    const T* __restrict g = grads.data<T>() + begin;
    T* __restrict m = m1.data<T>() + begin;
    T* __restrict v = m2.data<T>() + begin;
#pragma omp simd
    for (int64_t i = first; i < last; ++i) {
      const T grad = clip * g[i];
      m[i] = b1 * m[i] + new1 * grad;
      v[i] = b2 * v[i] + new2 * grad * grad;
      p[i] -= lr * (m[i] * correct1 / (sqrt_of(v[i] * correct2) + eps) + decay * p[i]);
    }
  });
}

template <class T>
double squares(const Tensor& values, const Tensor& scratch) {
  const int64_t n = values.numel(), blocks = squares_blocks(n);
  double* sums = scratch.data<double>();
  parallel_for(values.device().pool(), blocks, 1, [&](int64_t first, int64_t last) {
    const T* __restrict x = values.data<T>();
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * kSquaresBlock,
                    end = begin + kSquaresBlock < n ? begin + kSquaresBlock : n;
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = begin; i < end; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
      sums[block] = sum;
    }
  });
  double result = 0;
  for (int64_t block = 0; block < blocks; ++block) result += sums[block];
  return result;
}

// Elements [begin, end). Not inlined: one compiled form, whatever the number of threads, so the sums keep
// their bits.
template <class T>
__attribute__((noinline)) void tile_squares(const AdamwSquaresArgs& a, int64_t begin, int64_t end,
                                            const Rates& r, double* sums) {
  const T correct1 = static_cast<T>(1.0 / (1.0 - power(r.beta1, r.step)));
  const T correct2 = static_cast<T>(1.0 / (1.0 - power(r.beta2, r.step)));
  const T eps = static_cast<T>(r.eps), lr = static_cast<T>(r.lr), decay = static_cast<T>(r.weight_decay);
  const T kept = static_cast<T>(1.0 / (1.0 - r.lr * r.weight_decay));
  const T* __restrict p = a.param.data<T>();
  const T* __restrict g = a.grad.data<T>();
  const T* __restrict m = a.m.data<T>();
  const T* __restrict v = a.v.data<T>();
  double param = 0, grad = 0, change = 0;
#pragma omp simd reduction(+ : param, grad, change)
  for (int64_t i = begin; i < end; ++i) {
    // p = old - lr (direction + decay old), solved for old.
    const T direction = m[i] * correct1 / (sqrt_of(v[i] * correct2) + eps);
    const T old = (p[i] + lr * direction) * kept;
    const T step = lr * (direction + decay * old);
    param += static_cast<double>(p[i]) * static_cast<double>(p[i]);
    grad += static_cast<double>(g[i]) * static_cast<double>(g[i]);
    change += static_cast<double>(step) * static_cast<double>(step);
  }
  sums[0] = param;
  sums[1] = grad;
  sums[2] = change;
}

template <class T>
void update_squares(const AdamwSquaresArgs& a) {
  const auto* rules = reinterpret_cast<const AdamwRule*>(a.table.rules.raw());
  const auto* tiles = reinterpret_cast<const AdamwTile*>(a.table.tiles.raw());
  const double updates = reinterpret_cast<const AdamwState*>(a.state.raw())->updates;
  const double lr = a.lr.data<double>()[0];
  parallel_for(a.param.device().pool(), a.table.tiles.dim(0), 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const AdamwRule& rule = rules[tiles[i].range];
      tile_squares<T>(a, tiles[i].begin, tiles[i].end,
                      {lr * rule.lr_scale, a.beta1, a.beta2, a.eps, rule.weight_decay, 1,
                       static_cast<int64_t>(updates - rule.missed)},
                      a.sums.data<double>() + 3 * i);
    }
  });
}

template <class T>
void step(const AdamwStepArgs& a) {
  auto& state = *reinterpret_cast<AdamwState*>(a.state.raw());
  state.grad_norm = __builtin_sqrt(squares<T>(a.grad, a.scratch));
  state.clip = 0;
  bool finite = __builtin_isfinite(state.grad_norm);
  for (int64_t i = 0; a.losses.defined() && i < a.losses.numel(); ++i)
    finite = finite && __builtin_isfinite(a.losses.data<T>()[i]);
  if (!finite) return;
  state.clip = 1;
  if (a.grad_clip > 0 && a.grad_clip < state.grad_norm + 1e-6)
    state.clip = a.grad_clip / (state.grad_norm + 1e-6);
  state.updates += 1;
  const auto* rules = reinterpret_cast<const AdamwRule*>(a.table.rules.raw());
  const auto* tiles = reinterpret_cast<const AdamwTile*>(a.table.tiles.raw());
  for (int64_t i = 0; i < a.table.tiles.dim(0); ++i) {
    const AdamwRule& rule = rules[tiles[i].range];
    update<T>(a.param, a.grad, a.m, a.v, tiles[i].begin, tiles[i].end,
              {a.lr.data<double>()[0] * rule.lr_scale, a.beta1, a.beta2, a.eps, rule.weight_decay, state.clip,
               static_cast<int64_t>(state.updates - rule.missed)});
  }
}

}  // namespace

void adamw_update(const AdamwArgs& a) {
  dispatch_float(a.param.dtype(), [&]<class T>() {
    update<T>(a.param, a.grad, a.m, a.v, a.begin, a.end,
              {a.lr, a.beta1, a.beta2, a.eps, a.weight_decay, a.clip, a.step});
  });
}
void sum_of_squares(const SquaresArgs& a) {
  dispatch_float(a.values.dtype(), [&]<class T>() { *a.result = squares<T>(a.values, a.scratch); });
}
void adamw_squares(const AdamwSquaresArgs& a) {
  dispatch_float(a.param.dtype(), [&]<class T>() { update_squares<T>(a); });
}
void adamw_step(const AdamwStepArgs& a) {
  dispatch_float(a.param.dtype(), [&]<class T>() { step<T>(a); });
}

}  // namespace rookery::RK_BACKEND
