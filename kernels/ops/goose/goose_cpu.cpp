// goose_cpu.cpp: one token and head at a time, so that its rows stay in cache between the sum over the head
// and what needs it. Nothing but the inputs is kept for the way back: sums and sigmoids are computed again.
// Sums over tokens are taken per part of the rows, then over the parts in their order.
#include "kernels/ops/goose/goose.h"
#include "kernels/ops/math/vmath.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr int64_t kRows = 16;  // per thread below which waking it does not pay
constexpr int64_t kElements = 1 << 14;
constexpr double kLeastNorm = 1e-12;  // of a key that is divided by its norm

#define RK_INLINE static inline __attribute__((always_inline))

// Hands on a finished piece of a gradient.
template <class T>
RK_INLINE void emit(const GradTarget& target, int64_t at, const T* __restrict from, int64_t n) {
  if (!target.tensor.defined()) return;
  T* __restrict to = target.tensor.data<T>() + at;
  if (target.accumulate) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] += from[i];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] = from[i];
  }
}

// The gradient of a parameter of C elements: row `which` of every part.
template <class T>
RK_INLINE void add_up(const GradTarget& target, const Tensor& scratch, int64_t which) {
  if (!target.tensor.defined()) return;
  const int64_t parts = scratch.dim(0), C = scratch.dim(2), stride = scratch.dim(1) * C;
  const T* from = scratch.data<T>() + which * C;
  T* to = target.tensor.data<T>();
  for (int64_t i = 0; i < C; ++i) {
    T sum = target.accumulate ? to[i] : T(0);
    for (int64_t part = 0; part < parts; ++part) sum += from[part * stride + i];
    to[i] = sum;
  }
}

template <class T>
RK_INLINE void clear(const Tensor& scratch) {
  T* s = scratch.data<T>();
  for (int64_t i = 0; i < scratch.numel(); ++i) s[i] = 0;
}

// body(at, channel, part): a head of a token starts at element `at` of the tensors, its first channel is
// `channel`.
template <class F>
RK_INLINE void for_heads(const Tensor& x, int64_t heads, F&& body) {
  const int64_t C = x.shape().back(), N = C / heads;
  parallel_parts(x.device().pool(), x.numel() / C, kRows, [&](int64_t begin, int64_t end, int part) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t h = 0; h < heads; ++h) body(row * C + h * N, h * N, part);
    }
  });
}

// 1 / the norm of key k_k, and whether that norm is at its least.
template <class T>
struct KeyNorm {
  T inverse;
  bool least;
};
template <class T>
RK_INLINE KeyNorm<T> key_norm(const T* __restrict key, const T* __restrict k_k, int64_t N) {
  T squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < N; ++i) squares += key[i] * k_k[i] * (key[i] * k_k[i]);
  const T norm = __builtin_sqrt(squares);
  const bool least = norm <= T(kLeastNorm);
  return {T(1) / (least ? T(kLeastNorm) : norm), least};
}

template <class T>
void keys_forward(const GooseKeysArgs& x) {
  const int64_t N = x.key.shape().back() / x.num_heads;
  for_heads(x.key, x.num_heads, [&](int64_t at, int64_t channel, int) {
    const T* __restrict key = x.key.data<T>() + at;
    const T* __restrict rate = x.rate.data<T>() + at;
    const T* __restrict k_k = x.k_k.data<T>() + channel;
    const T* __restrict k_a = x.k_a.data<T>() + channel;
    T* __restrict k = x.k.data<T>() + at;
    T* __restrict a = x.a.data<T>() + at;
    T* __restrict b = x.b.data<T>() + at;
    const T inverse = key_norm(key, k_k, N).inverse;
#pragma omp simd
    for (int64_t i = 0; i < N; ++i) {
      const T alpha = vsigmoid(rate[i]), kk = key[i] * k_k[i] * inverse;
      k[i] = key[i] * (T(1) + (alpha - T(1)) * k_a[i]);
      a[i] = -kk;
      b[i] = kk * alpha;
    }
  });
}

template <class T>
void keys_backward(const GooseKeysGrad& x) {
  const int64_t C = x.key.shape().back(), N = C / x.num_heads;
  clear<T>(x.scratch);
  for_heads(x.key, x.num_heads, [&](int64_t at, int64_t channel, int part) {
    const T* __restrict key = x.key.data<T>() + at;
    const T* __restrict rate = x.rate.data<T>() + at;
    const T* __restrict k_k = x.k_k.data<T>() + channel;
    const T* __restrict k_a = x.k_a.data<T>() + channel;
    const T* __restrict dk = x.dk.data<T>() + at;
    const T* __restrict da = x.da.data<T>() + at;
    const T* __restrict db = x.db.data<T>() + at;
    T* sums = x.scratch.data<T>() + part * 4 * C;
    T* __restrict dk_k = sums + channel;
    T* __restrict dk_a = sums + C + channel;
    T* __restrict dkey = sums + 2 * C;  // first the gradient of kk
    T* __restrict drate = sums + 3 * C;
    const KeyNorm<T> norm = key_norm(key, k_k, N);
    T along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t i = 0; i < N; ++i) {
      const T alpha = vsigmoid(rate[i]), kk = key[i] * k_k[i] * norm.inverse;
      const T dalpha = db[i] * kk + dk[i] * key[i] * k_a[i];
      drate[i] = dalpha * alpha * (T(1) - alpha);
      dkey[i] = db[i] * alpha - da[i];
      dk_a[i] += dk[i] * key[i] * (alpha - T(1));
      along += kk * dkey[i];
    }
    if (norm.least) along = 0;  // divided by a constant
#pragma omp simd
    for (int64_t i = 0; i < N; ++i) {
      const T kk = key[i] * k_k[i] * norm.inverse, scaled = (dkey[i] - kk * along) * norm.inverse;
      dk_k[i] += scaled * key[i];
      dkey[i] = scaled * k_k[i] + dk[i] * (T(1) + (vsigmoid(rate[i]) - T(1)) * k_a[i]);
    }
    emit(x.dkey, at, dkey, N);
    emit(x.drate, at, drate, N);
  });
  add_up<T>(x.dk_k, x.scratch, 0);
  add_up<T>(x.dk_a, x.scratch, 1);
}

template <class T>
void value_forward(const GooseValueArgs& x) {
  parallel_for(x.out.device().pool(), x.out.numel(), kElements, [&](int64_t begin, int64_t end) {
    const T* __restrict value = x.value.data<T>();
    const T* __restrict first = x.first.data<T>();
    const T* __restrict mix = x.mix.data<T>();
    T* __restrict out = x.out.data<T>();
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) out[i] = value[i] + (first[i] - value[i]) * vsigmoid(mix[i]);
  });
}

template <class T>
void value_backward(const GooseValueGrad& x) {
  constexpr int64_t kBlock = 256;
  parallel_for(x.dout.device().pool(), x.dout.numel(), kElements, [&](int64_t begin, int64_t end) {
    T dvalue[kBlock], dfirst[kBlock], dmix[kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = end - at < kBlock ? end - at : kBlock;
      const T* __restrict value = x.value.data<T>() + at;
      const T* __restrict first = x.first.data<T>() + at;
      const T* __restrict mix = x.mix.data<T>() + at;
      const T* __restrict dout = x.dout.data<T>() + at;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        const T s = vsigmoid(mix[i]);
        dfirst[i] = dout[i] * s;
        dvalue[i] = dout[i] * (T(1) - s);
        dmix[i] = dfirst[i] * (first[i] - value[i]) * (T(1) - s);
      }
      emit(x.dvalue, at, dvalue, n);
      emit(x.dfirst, at, dfirst, n);
      emit(x.dmix, at, dmix, n);
    }
  });
}

// Of one head: what turns y into its normalised form, and the bonus.
template <class T>
struct HeadSums {
  T mean, rstd, bonus;
};
template <class T>
RK_INLINE HeadSums<T> head_sums(const T* __restrict y, const T* __restrict r, const T* __restrict k,
                                const T* __restrict r_k, int64_t N, T eps) {
  T sum = 0, bonus = 0, squares = 0;
#pragma omp simd reduction(+ : sum, bonus)
  for (int64_t i = 0; i < N; ++i) {
    sum += y[i];
    bonus += r[i] * k[i] * r_k[i];
  }
  const T mean = sum / static_cast<T>(N);
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < N; ++i) squares += (y[i] - mean) * (y[i] - mean);
  const T rstd = T(1) / __builtin_sqrt(squares / static_cast<T>(N) + eps);
  return {mean, rstd, bonus};
}

template <class T>
void output_forward(const GooseOutputArgs& x) {
  const int64_t N = x.r_k.dim(1);
  for_heads(x.y, x.r_k.dim(0), [&](int64_t at, int64_t channel, int) {
    const T* __restrict y = x.y.data<T>() + at;
    const T* __restrict v = x.v.data<T>() + at;
    const T* __restrict gate = x.gate.data<T>() + at;
    const T* __restrict gamma = x.gamma.data<T>() + channel;
    const T* __restrict beta = x.beta.data<T>() + channel;
    T* __restrict out = x.out.data<T>() + at;
    const HeadSums<T> s = head_sums(y, x.r.data<T>() + at, x.k.data<T>() + at, x.r_k.data<T>() + channel, N,
                                    static_cast<T>(x.eps));
#pragma omp simd
    for (int64_t i = 0; i < N; ++i)
      out[i] = ((y[i] - s.mean) * s.rstd * gamma[i] + beta[i] + s.bonus * v[i]) * gate[i];
  });
}

// dz = dout gate; with q = dz gamma: dy = rstd (q - mean(q) - yhat mean(q yhat)).
template <class T>
void output_backward(const GooseOutputGrad& x) {
  const int64_t C = x.y.shape().back(), N = x.r_k.dim(1);
  clear<T>(x.scratch);
  for_heads(x.y, x.r_k.dim(0), [&](int64_t at, int64_t channel, int part) {
    const T* __restrict y = x.y.data<T>() + at;
    const T* __restrict r = x.r.data<T>() + at;
    const T* __restrict k = x.k.data<T>() + at;
    const T* __restrict v = x.v.data<T>() + at;
    const T* __restrict gate = x.gate.data<T>() + at;
    const T* __restrict dout = x.dout.data<T>() + at;
    const T* __restrict gamma = x.gamma.data<T>() + channel;
    const T* __restrict beta = x.beta.data<T>() + channel;
    const T* __restrict r_k = x.r_k.data<T>() + channel;
    T* sums = x.scratch.data<T>() + part * 5 * C;
    T* __restrict dgamma = sums + channel;
    T* __restrict dbeta = sums + C + channel;
    T* __restrict dr_k = sums + 2 * C + channel;
    T* __restrict dz = sums + 3 * C;
    T* __restrict out = sums + 4 * C;
    const HeadSums<T> s = head_sums(y, r, k, r_k, N, static_cast<T>(x.eps));
    T dbonus = 0, q_sum = 0, qy_sum = 0;
#pragma omp simd reduction(+ : dbonus, q_sum, qy_sum)
    for (int64_t i = 0; i < N; ++i) {
      const T yhat = (y[i] - s.mean) * s.rstd;
      out[i] = dout[i] * (yhat * gamma[i] + beta[i] + s.bonus * v[i]);
      dz[i] = dout[i] * gate[i];
      dbonus += dz[i] * v[i];
      q_sum += dz[i] * gamma[i];
      qy_sum += dz[i] * gamma[i] * yhat;
      dgamma[i] += dz[i] * yhat;
      dbeta[i] += dz[i];
    }
    emit(x.dgate, at, out, N);
    const T q_mean = q_sum / static_cast<T>(N), qy_mean = qy_sum / static_cast<T>(N);
#pragma omp simd
    for (int64_t i = 0; i < N; ++i)
      out[i] = s.rstd * (dz[i] * gamma[i] - q_mean - (y[i] - s.mean) * s.rstd * qy_mean);
    emit(x.dy, at, out, N);
#pragma omp simd
    for (int64_t i = 0; i < N; ++i) {
      dr_k[i] += dbonus * r[i] * k[i];
      out[i] = dbonus * k[i] * r_k[i];
    }
    emit(x.dr, at, out, N);
#pragma omp simd
    for (int64_t i = 0; i < N; ++i) {
      out[i] = dbonus * r[i] * r_k[i];
      dz[i] *= s.bonus;
    }
    emit(x.dk, at, out, N);
    emit(x.dv, at, dz, N);
  });
  add_up<T>(x.dgamma, x.scratch, 0);
  add_up<T>(x.dbeta, x.scratch, 1);
  add_up<T>(x.dr_k, x.scratch, 2);
}

}  // namespace

void goose_keys_forward(const GooseKeysArgs& a) {
  dispatch_float(a.key.dtype(), [&]<class T>() { keys_forward<T>(a); });
}
void goose_keys_backward(const GooseKeysGrad& a) {
  dispatch_float(a.key.dtype(), [&]<class T>() { keys_backward<T>(a); });
}
void goose_value_forward(const GooseValueArgs& a) {
  dispatch_float(a.out.dtype(), [&]<class T>() { value_forward<T>(a); });
}
void goose_value_backward(const GooseValueGrad& a) {
  dispatch_float(a.dout.dtype(), [&]<class T>() { value_backward<T>(a); });
}
void goose_output_forward(const GooseOutputArgs& a) {
  dispatch_float(a.y.dtype(), [&]<class T>() { output_forward<T>(a); });
}
void goose_output_backward(const GooseOutputGrad& a) {
  dispatch_float(a.y.dtype(), [&]<class T>() { output_backward<T>(a); });
}

}  // namespace rookery::RK_BACKEND
