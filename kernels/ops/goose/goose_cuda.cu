// goose_cuda.cu: a team of threads per head of a token (kernels/ops/row_team.h). As goose_cpu.cpp, they
// keep nothing but the inputs for the way back.
#include "kernels/ops/goose/goose.h"
#include "kernels/ops/row_team.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr float kLeastNorm = 1e-12f;  // of a key that is divided by its norm

template <class T>
struct KeysView {
  const T *key, *rate, *k_k, *k_a;
};
template <class T, class A>
KeysView<T> keys_view(const A& a) {
  return {a.key.template data<T>(), a.rate.template data<T>(), a.k_k.template data<T>(),
          a.k_a.template data<T>()};
}

// The norm of key k_k of the thread's head, not yet kept from 0.
template <class T>
RK_DEV float key_norm(rk::RowTeam& team, const KeysView<T>& x, int64_t at) {
  float squares = 0;
  team.each_pack([&](int64_t i) {
    const rk::Pack key = team.load(x.key + at, i), k_k = team.load(x.k_k + team.channel(), i);
    for (int j = 0; j < rk::kPack; ++j) squares += key[j] * k_k[j] * (key[j] * k_k[j]);
  });
  return sqrtf(team.sum(squares));
}

// A pack of the inputs, and what both ways make of it.
struct KeysPack {
  rk::Pack key, k_k, k_a, alpha, kk;
};
template <class T>
RK_DEV KeysPack keys_pack(const rk::RowTeam& team, const KeysView<T>& x, int64_t at, int64_t i,
                          float inverse_norm) {
  KeysPack p{team.load(x.key + at, i),
             team.load(x.k_k + team.channel(), i),
             team.load(x.k_a + team.channel(), i),
             team.load(x.rate + at, i),
             {}};
  for (int j = 0; j < rk::kPack; ++j) {
    p.alpha[j] = rk::sigmoid(p.alpha[j]);
    p.kk[j] = p.key[j] * p.k_k[j] * inverse_norm;
  }
  return p;
}

template <class T>
__global__ void goose_keys_forward_kernel(KeysView<T> x, T* out_k, T* out_a, T* out_b, rk::Rows rows) {
  rk::RowTeam team(rows);
  team.each_row([&](int64_t row) {
    const int64_t at = row * rows.C() + team.channel();
    const float inverse = 1.0f / fmaxf(key_norm(team, x, at), kLeastNorm);
    team.each_pack([&](int64_t i) {
      const KeysPack p = keys_pack(team, x, at, i, inverse);
      rk::Pack k, a, b;
      for (int j = 0; j < rk::kPack; ++j) {
        k[j] = p.key[j] * (1.0f + (p.alpha[j] - 1.0f) * p.k_a[j]);
        a[j] = -p.kk[j];
        b[j] = p.kk[j] * p.alpha[j];
      }
      team.store(out_k + at, i, k);
      team.store(out_a + at, i, a);
      team.store(out_b + at, i, b);
    });
  });
}

template <class T>
__global__ void goose_keys_backward_kernel(KeysView<T> x, const T* dk, const T* da, const T* db,
                                           rk::GradOut dkey, rk::GradOut drate, float* partial,
                                           rk::Rows rows) {
  rk::RowTeam team(rows);
  team.clear_columns(2);  // dk_k, dk_a
  team.each_row([&](int64_t row) {
    const int64_t at = row * rows.C() + team.channel();
    const float norm = key_norm(team, x, at);
    const float inverse = 1.0f / fmaxf(norm, kLeastNorm);
    float along = 0;
    team.each_pack([&](int64_t i) {
      const KeysPack p = keys_pack(team, x, at, i, inverse);
      const rk::Pack gk = team.load(dk + at, i), ga = team.load(da + at, i), gb = team.load(db + at, i);
      rk::Pack grate, gk_a;
      for (int j = 0; j < rk::kPack; ++j) {
        const float alpha = p.alpha[j];
        grate[j] = (gb[j] * p.kk[j] + gk[j] * p.key[j] * p.k_a[j]) * alpha * (1.0f - alpha);
        gk_a[j] = gk[j] * p.key[j] * (alpha - 1.0f);
        along += p.kk[j] * (gb[j] * alpha - ga[j]);
      }
      team.store(drate, at, i, grate);
      team.add_to_column(1, i, gk_a);
    });
    along = team.sum(along);
    if (norm <= kLeastNorm) along = 0;  // divided by a constant
    team.each_pack([&](int64_t i) {
      const KeysPack p = keys_pack(team, x, at, i, inverse);
      const rk::Pack gk = team.load(dk + at, i), ga = team.load(da + at, i), gb = team.load(db + at, i);
      rk::Pack gkey, gk_k;
      for (int j = 0; j < rk::kPack; ++j) {
        const float scaled = (gb[j] * p.alpha[j] - ga[j] - p.kk[j] * along) * inverse;
        gk_k[j] = scaled * p.key[j];
        gkey[j] = scaled * p.k_k[j] + gk[j] * (1.0f + (p.alpha[j] - 1.0f) * p.k_a[j]);
      }
      team.store(dkey, at, i, gkey);
      team.add_to_column(0, i, gk_k);
    });
  });
  team.write_columns(2, partial);
}

template <class T>
__global__ void goose_value_forward_kernel(const T* value, const T* first, const T* mix, T* out, int64_t n) {
  const int64_t at = rk::first_of_pack();
  if (at >= n) return;
  rk::Pack v = rk::load_pack(value, at, n);
  const rk::Pack f = rk::load_pack(first, at, n), m = rk::load_pack(mix, at, n);
  for (int j = 0; j < rk::kPack; ++j) v[j] += (f[j] - v[j]) * rk::sigmoid(m[j]);
  rk::store_pack(out, at, n, v);
}

template <class T>
__global__ void goose_value_backward_kernel(const T* value, const T* first, const T* mix, const T* dout,
                                            rk::GradOut dvalue, rk::GradOut dfirst, rk::GradOut dmix,
                                            int64_t n) {
  const int64_t at = rk::first_of_pack();
  if (at >= n) return;
  const rk::Pack v = rk::load_pack(value, at, n), f = rk::load_pack(first, at, n),
                 m = rk::load_pack(mix, at, n), d = rk::load_pack(dout, at, n);
  rk::Pack gv, gf, gm;
  for (int j = 0; j < rk::kPack; ++j) {
    const float s = rk::sigmoid(m[j]);
    gf[j] = d[j] * s;
    gv[j] = d[j] * (1.0f - s);
    gm[j] = gf[j] * (f[j] - v[j]) * (1.0f - s);
  }
  if (dvalue.wanted()) dvalue.store(at, n, gv);
  if (dfirst.wanted()) dfirst.store(at, n, gf);
  if (dmix.wanted()) dmix.store(at, n, gm);
}

template <class T>
struct OutputView {
  const T *y, *gamma, *beta, *r, *k, *v, *r_k, *gate;
  float eps;
};
template <class T, class A>
OutputView<T> output_view(const A& a) {
  const auto at = [](const Tensor& t) { return t.data<T>(); };
  return {at(a.y),   at(a.gamma), at(a.beta),
          at(a.r),   at(a.k),     at(a.v),
          at(a.r_k), at(a.gate),  static_cast<float>(a.eps)};
}

// Of one head: what turns y into its normalised form, and the bonus.
struct HeadSums {
  float mean, rstd, bonus;
};
template <class T>
RK_DEV HeadSums head_sums(rk::RowTeam& team, const OutputView<T>& x, int64_t at, float n) {
  float sums[2] = {0, 0}, square = 0;
  team.each_pack([&](int64_t i) {
    const rk::Pack y = team.load(x.y + at, i), r = team.load(x.r + at, i), k = team.load(x.k + at, i),
                   r_k = team.load(x.r_k + team.channel(), i);
    for (int j = 0; j < rk::kPack; ++j) {
      sums[0] += y[j];
      sums[1] += r[j] * k[j] * r_k[j];
    }
  });
  team.add_up(sums);
  const float mean = sums[0] / n;
  team.each_pack([&](int64_t i) {
    const rk::Pack y = team.load(x.y + at, i);
    for (int j = 0; j < rk::kPack; ++j)
      if (i + j < team.N()) square += (y[j] - mean) * (y[j] - mean);
  });
  return {mean, 1.0f / sqrtf(team.sum(square) / n + x.eps), sums[1]};
}

template <class T>
__global__ void goose_output_forward_kernel(OutputView<T> x, T* out, rk::Rows rows) {
  rk::RowTeam team(rows);
  const int64_t channel = team.channel();
  team.each_row([&](int64_t row) {
    const int64_t at = row * rows.C() + channel;
    const HeadSums s = head_sums(team, x, at, static_cast<float>(rows.N));
    team.each_pack([&](int64_t i) {
      rk::Pack y = team.load(x.y + at, i);
      const rk::Pack v = team.load(x.v + at, i), gate = team.load(x.gate + at, i),
                     gamma = team.load(x.gamma + channel, i), beta = team.load(x.beta + channel, i);
      for (int j = 0; j < rk::kPack; ++j)
        y[j] = ((y[j] - s.mean) * s.rstd * gamma[j] + beta[j] + s.bonus * v[j]) * gate[j];
      team.store(out + at, i, y);
    });
  });
}

struct OutputTargets {
  rk::GradOut dy, dr, dk, dv, dgate;
};

template <class T>
__global__ void goose_output_backward_kernel(OutputView<T> x, const T* dout, OutputTargets d, float* partial,
                                             rk::Rows rows) {
  rk::RowTeam team(rows);
  const int64_t channel = team.channel();
  const float n = static_cast<float>(rows.N);
  team.clear_columns(3);  // dgamma, dbeta, dr_k
  team.each_row([&](int64_t row) {
    const int64_t at = row * rows.C() + channel;
    const HeadSums s = head_sums(team, x, at, n);
    float sums[3] = {0, 0, 0};  // dbonus, q = dz gamma, q yhat
    team.each_pack([&](int64_t i) {
      const rk::Pack y = team.load(x.y + at, i), v = team.load(x.v + at, i), gate = team.load(x.gate + at, i),
                     gamma = team.load(x.gamma + channel, i), beta = team.load(x.beta + channel, i),
                     g = team.load(dout + at, i);
      rk::Pack ggate, gv, dz, part;
      for (int j = 0; j < rk::kPack; ++j) {
        const float yhat = (y[j] - s.mean) * s.rstd;
        dz[j] = g[j] * gate[j];
        ggate[j] = g[j] * (yhat * gamma[j] + beta[j] + s.bonus * v[j]);
        gv[j] = dz[j] * s.bonus;
        part[j] = dz[j] * yhat;
        sums[0] += dz[j] * v[j];
        sums[1] += dz[j] * gamma[j];
        sums[2] += part[j] * gamma[j];
      }
      team.store(d.dgate, at, i, ggate);
      team.store(d.dv, at, i, gv);
      team.add_to_column(0, i, part);
      team.add_to_column(1, i, dz);
    });
    team.add_up(sums);
    const float dbonus = sums[0], q_mean = sums[1] / n, qy_mean = sums[2] / n;
    team.each_pack([&](int64_t i) {
      const rk::Pack y = team.load(x.y + at, i), r = team.load(x.r + at, i), k = team.load(x.k + at, i),
                     gate = team.load(x.gate + at, i), gamma = team.load(x.gamma + channel, i),
                     r_k = team.load(x.r_k + channel, i), g = team.load(dout + at, i);
      rk::Pack gy, gr, gk, part;
      for (int j = 0; j < rk::kPack; ++j) {
        gy[j] = s.rstd * (g[j] * gate[j] * gamma[j] - q_mean - (y[j] - s.mean) * s.rstd * qy_mean);
        gr[j] = dbonus * k[j] * r_k[j];
        gk[j] = dbonus * r[j] * r_k[j];
        part[j] = dbonus * r[j] * k[j];
      }
      team.store(d.dy, at, i, gy);
      team.store(d.dr, at, i, gr);
      team.store(d.dk, at, i, gk);
      team.add_to_column(2, i, part);
    });
  });
  team.write_columns(3, partial);
}

}  // namespace

void goose_keys_forward(const GooseKeysArgs& a) {
  const int64_t C = a.key.shape().back(), M = a.key.numel() / C, N = C / a.num_heads;
  dispatch_gpu_float(a.key.dtype(), [&]<class T>() {
    const rk::RowsLaunch r(M, a.num_heads, N, rk::blocks_of_rows(M), 0);
    rk::launch(a.key.device(), goose_keys_forward_kernel<T>, r.launch, keys_view<T>(a), a.k.data<T>(),
               a.a.data<T>(), a.b.data<T>(), r.rows);
  });
}

void goose_keys_backward(const GooseKeysGrad& a) {
  const int64_t C = a.key.shape().back(), M = a.key.numel() / C, N = C / a.num_heads;
  dispatch_gpu_float(a.key.dtype(), [&]<class T>() {
    const rk::RowsLaunch r(M, a.num_heads, N, a.scratch.dim(0), 2);
    rk::launch(a.key.device(), goose_keys_backward_kernel<T>, r.launch, keys_view<T>(a), a.dk.data<T>(),
               a.da.data<T>(), a.db.data<T>(), rk::grad_out(a.dkey), rk::grad_out(a.drate),
               a.scratch.data<float>(), r.rows);
  });
  rk::add_parts(a.scratch, 0, a.dk_k);
  rk::add_parts(a.scratch, 1, a.dk_a);
}

void goose_value_forward(const GooseValueArgs& a) {
  const int64_t n = a.out.numel();
  dispatch_gpu_float(a.out.dtype(), [&]<class T>() {
    rk::launch(a.out.device(), goose_value_forward_kernel<T>, rk::pack_launch(n), a.value.data<T>(),
               a.first.data<T>(), a.mix.data<T>(), a.out.data<T>(), n);
  });
}

void goose_value_backward(const GooseValueGrad& a) {
  const int64_t n = a.dout.numel();
  dispatch_gpu_float(a.dout.dtype(), [&]<class T>() {
    rk::launch(a.dout.device(), goose_value_backward_kernel<T>, rk::pack_launch(n), a.value.data<T>(),
               a.first.data<T>(), a.mix.data<T>(), a.dout.data<T>(), rk::grad_out(a.dvalue),
               rk::grad_out(a.dfirst), rk::grad_out(a.dmix), n);
  });
}

void goose_output_forward(const GooseOutputArgs& a) {
  const int64_t H = a.r_k.dim(0), N = a.r_k.dim(1), M = a.y.numel() / (H * N);
  dispatch_gpu_float(a.y.dtype(), [&]<class T>() {
    const rk::RowsLaunch r(M, H, N, rk::blocks_of_rows(M), 0);
    rk::launch(a.y.device(), goose_output_forward_kernel<T>, r.launch, output_view<T>(a), a.out.data<T>(),
               r.rows);
  });
}

void goose_output_backward(const GooseOutputGrad& a) {
  const int64_t H = a.r_k.dim(0), N = a.r_k.dim(1), M = a.y.numel() / (H * N);
  dispatch_gpu_float(a.y.dtype(), [&]<class T>() {
    const rk::RowsLaunch r(M, H, N, a.scratch.dim(0), 3);
    const OutputTargets targets{rk::grad_out(a.dy), rk::grad_out(a.dr), rk::grad_out(a.dk),
                                rk::grad_out(a.dv), rk::grad_out(a.dgate)};
    rk::launch(a.y.device(), goose_output_backward_kernel<T>, r.launch, output_view<T>(a), a.dout.data<T>(),
               targets, a.scratch.data<float>(), r.rows);
  });
  rk::add_parts(a.scratch, 0, a.dgamma);
  rk::add_parts(a.scratch, 1, a.dbeta);
  rk::add_parts(a.scratch, 2, a.dr_k);
}

}  // namespace rookery::RK_BACKEND
