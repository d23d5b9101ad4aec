// norm_shift_cuda.cu: a block per part of the rows, its threads a team on each row (kernels/ops/row_team.h).
// Forward it walks down, with the norm of the row before in shared memory; backward up, with what the row
// after sent back.
#include "kernels/ops/row_team.h"
#include "kernels/ops/token_shift/norm_shift.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr int kMixes = ops::kMaxMixes, kPack = rk::kPack;
constexpr int64_t kPartRows = 16;  // forward, where each part looks at one more row

template <class T>
struct NormShiftView {
  const T *x, *delta, *gamma, *beta;  // backward x is the sum, delta null
  const T* carried;                   // may be null,
  const uint8_t* doc_start;           // this too
  const T* mu[kMixes];                // and these: n itself
  float *mean, *rstd;
  int count;
  int64_t rows, seq_len, C;

  RK_DEV bool first(int64_t row) const { return row % seq_len == 0; }
  RK_DEV bool starts(int64_t row) const { return doc_start != nullptr && doc_start[row] != 0; }
  RK_DEV bool follows(int64_t row) const { return !first(row) && !starts(row); }
  RK_DEV rk::Pack carried_pack(int64_t row, int64_t i) const {
    return carried != nullptr && !starts(row) ? rk::load_pack(carried + row / seq_len * C, i, C) : rk::Pack{};
  }
  // x + delta, as it is stored.
  RK_DEV rk::Pack sum(int64_t row, int64_t i) const {
    rk::Pack s = rk::load_pack(x + row * C, i, C);
    if (delta == nullptr) return s;
    const rk::Pack d = rk::load_pack(delta + row * C, i, C);
    for (int j = 0; j < kPack; ++j) s[j] = static_cast<float>(static_cast<T>(s[j] + d[j]));
    return s;
  }
  // Of (x - mean) rstd.
  RK_DEV rk::Pack norm(rk::Pack xhat, int64_t i) const {
    const rk::Pack g = rk::load_pack(gamma, i, C), b = rk::load_pack(beta, i, C);
    for (int j = 0; j < kPack; ++j) xhat[j] = xhat[j] * g[j] + b[j];
    return xhat;
  }
};

RK_DEV rk::Pack xhat_of(rk::Pack x, float mean, float rstd) {
  for (int j = 0; j < kPack; ++j) x[j] = (x[j] - mean) * rstd;
  return x;
}
RK_DEV int64_t part_begin(int64_t rows, int64_t part, int64_t parts) { return rows * part / parts; }

template <class T>
struct Mixes {
  T* of[kMixes];  // null: zero
};

template <class T>
__global__ void norm_shift_forward_kernel(NormShiftView<T> a, T* sum, Mixes<T> out, T* last, rk::Rows rows,
                                          float eps) {
  enum { kBefore, kSum };  // rows in shared memory: n of the row before, x + delta
  rk::RowTeam team(rows);
  const int64_t C = a.C;
  const float channels = static_cast<float>(C);
  const int64_t begin = part_begin(a.rows, blockIdx.y, gridDim.y),
                end = part_begin(a.rows, blockIdx.y + 1, gridDim.y);
  for (int64_t row = a.follows(begin) ? begin - 1 : begin; row < end; ++row) {
    const bool own = row >= begin;
    float total = 0, square = 0;
    team.each_pack([&](int64_t i) {
      const rk::Pack s = a.sum(row, i);
      if (own && a.delta != nullptr) team.store(sum + row * C, i, s);
      team.set_column(kSum, i, s);
      for (int j = 0; j < kPack; ++j) total += s[j];
    });
    const float mean = team.sum(total) / channels;
    team.each_pack([&](int64_t i) {
      const rk::Pack s = team.column(kSum, i);
      for (int j = 0; j < kPack; ++j)
        if (i + j < C) square += (s[j] - mean) * (s[j] - mean);
    });
    const float rstd = 1.0f / sqrtf(team.sum(square) / channels + eps);
    if (own && team.is_first()) a.mean[row] = mean, a.rstd[row] = rstd;
    team.each_pack([&](int64_t i) {
      const rk::Pack n = a.norm(xhat_of(team.column(kSum, i), mean, rstd), i);
      if (own) {
        const rk::Pack before = a.follows(row) ? team.column(kBefore, i)
                                : a.first(row) ? a.carried_pack(row, i)
                                               : rk::Pack{};
#pragma unroll
        for (int q = 0; q < kMixes; ++q) {
          if (q >= a.count) continue;
          rk::Pack y = n;
          if (a.mu[q] != nullptr) {
            const rk::Pack mu = rk::load_pack(a.mu[q], i, C);
            for (int j = 0; j < kPack; ++j) y[j] += (before[j] - n[j]) * mu[j];
          }
          team.store(out.of[q] + row * C, i, y);
        }
        if (last != nullptr && (row + 1) % a.seq_len == 0) team.store(last + row / a.seq_len * C, i, n);
      }
      team.set_column(kBefore, i, n);
    });
  }
}

template <class T>
__global__ void norm_shift_backward_kernel(NormShiftView<T> a, Mixes<const T> dout, const T* dsum, T* dx,
                                           rk::GradOut dcarried, float* partial, rk::Rows rows) {
  // Rows in shared memory: sums for the mixes, gamma and beta; what the row after sent back; dn.
  const int gamma_sum = a.count, beta_sum = a.count + 1, from_next = a.count + 2, dn_row = a.count + 3;
  rk::RowTeam team(rows);
  const int64_t C = a.C;
  const float channels = static_cast<float>(C);
  const int64_t begin = part_begin(a.rows, blockIdx.y, gridDim.y),
                end = part_begin(a.rows, blockIdx.y + 1, gridDim.y);
  team.clear_columns(a.count + 3);
  if (end < a.rows && a.follows(end)) {
    team.each_pack([&](int64_t i) {
      rk::Pack back{};
#pragma unroll
      for (int q = 0; q < kMixes; ++q) {
        if (q >= a.count || dout.of[q] == nullptr || a.mu[q] == nullptr) continue;
        const rk::Pack d = rk::load_pack(dout.of[q] + end * C, i, C), mu = rk::load_pack(a.mu[q], i, C);
        for (int j = 0; j < kPack; ++j) back[j] += d[j] * mu[j];
      }
      team.set_column(from_next, i, back);
    });
  }
  for (int64_t row = end - 1; row >= begin; --row) {
    const float mean = a.mean[row], rstd = a.rstd[row];
    float sums[2] = {0, 0};  // of q = dn gamma, of q xhat
    team.each_pack([&](int64_t i) {
      const rk::Pack xhat = xhat_of(a.sum(row, i), mean, rstd), n = a.norm(xhat, i),
                     gamma = rk::load_pack(a.gamma, i, C);
      rk::Pack before{}, dn = team.column(from_next, i), back{};
      if (a.follows(row)) {
        before = a.norm(xhat_of(a.sum(row - 1, i), a.mean[row - 1], a.rstd[row - 1]), i);
      } else if (a.first(row)) {
        before = a.carried_pack(row, i);
      }
#pragma unroll
      for (int q = 0; q < kMixes; ++q) {
        if (q >= a.count || dout.of[q] == nullptr) continue;
        const rk::Pack d = rk::load_pack(dout.of[q] + row * C, i, C);
        for (int j = 0; j < kPack; ++j) dn[j] += d[j];
        if (a.mu[q] == nullptr) continue;
        const rk::Pack mu = rk::load_pack(a.mu[q], i, C);
        rk::Pack dmu;
        for (int j = 0; j < kPack; ++j) {
          dn[j] -= d[j] * mu[j];
          back[j] += d[j] * mu[j];
          dmu[j] = d[j] * (before[j] - n[j]);
        }
        team.add_to_column(q, i, dmu);
      }
      rk::Pack dgamma;
      for (int j = 0; j < kPack; ++j) {
        dgamma[j] = dn[j] * xhat[j];
        sums[0] += dn[j] * gamma[j];
        sums[1] += dgamma[j] * gamma[j];
      }
      team.add_to_column(gamma_sum, i, dgamma);
      team.add_to_column(beta_sum, i, dn);
      team.set_column(dn_row, i, dn);
      team.set_column(from_next, i, a.follows(row) ? back : rk::Pack{});
      if (a.first(row)) team.store(dcarried, row / a.seq_len * C, i, a.starts(row) ? rk::Pack{} : back);
    });
    if (dx == nullptr) continue;
    team.add_up(sums);
    const float q_mean = sums[0] / channels, qx_mean = sums[1] / channels;
    team.each_pack([&](int64_t i) {
      const rk::Pack xhat = xhat_of(a.sum(row, i), mean, rstd), gamma = rk::load_pack(a.gamma, i, C);
      rk::Pack d = team.column(dn_row, i);
      for (int j = 0; j < kPack; ++j) d[j] = rstd * (d[j] * gamma[j] - q_mean - xhat[j] * qx_mean);
      if (dsum != nullptr) {
        const rk::Pack more = rk::load_pack(dsum + row * C, i, C);
        for (int j = 0; j < kPack; ++j) d[j] += more[j];
      }
      team.store(dx + row * C, i, d);
    });
  }
  team.write_columns(a.count + 2, partial);
}

template <class T, class A>
NormShiftView<T> norm_shift_view(const A& a, const Tensor& x, const Tensor& delta) {
  NormShiftView<T> v{x.data<T>(),
                     rk::data_or_null<T>(delta),
                     a.gamma.template data<T>(),
                     a.beta.template data<T>(),
                     rk::data_or_null<T>(a.carried),
                     rk::data_or_null<uint8_t>(a.doc_start),
                     {},
                     a.mean.template data<float>(),
                     a.rstd.template data<float>(),
                     a.count,
                     x.dim(0) * x.dim(1),
                     x.dim(1),
                     x.dim(2)};
  for (int q = 0; q < a.count; ++q) v.mu[q] = rk::data_or_null<T>(a.mu[q]);
  return v;
}

}  // namespace

void norm_shift_forward(const NormShiftArgs& a) {
  const int64_t M = a.mean.numel(), C = a.gamma.numel();
  dispatch_gpu_float(a.x.dtype(), [&]<class T>() {
    Mixes<T> out{};
    for (int q = 0; q < a.count; ++q) out.of[q] = a.out[q].data<T>();
    const rk::RowsLaunch r(M, 1, C, rk::blocks_of_rows((M + kPartRows - 1) / kPartRows), 2);
    rk::launch(a.x.device(), norm_shift_forward_kernel<T>, r.launch, norm_shift_view<T>(a, a.x, a.delta),
               a.sum.data<T>(), out, a.last.defined() ? a.last.data<T>() : nullptr, r.rows,
               static_cast<float>(a.eps));
  });
}

void norm_shift_backward(const NormShiftGrad& a) {
  const int64_t M = a.mean.numel(), C = a.gamma.numel();
  dispatch_gpu_float(a.sum.dtype(), [&]<class T>() {
    Mixes<const T> dout{};
    for (int q = 0; q < a.count; ++q) dout.of[q] = rk::data_or_null<T>(a.dout[q]);
    const rk::RowsLaunch r(M, 1, C, a.scratch.dim(0), a.count + 4);
    rk::launch(a.sum.device(), norm_shift_backward_kernel<T>, r.launch, norm_shift_view<T>(a, a.sum, {}),
               dout, rk::data_or_null<T>(a.dsum), a.dx.defined() ? a.dx.data<T>() : nullptr,
               rk::grad_out(a.dcarried), a.scratch.data<float>(), r.rows);
  });
  for (int q = 0; q < a.count; ++q) rk::add_parts(a.scratch, q, a.dmu[q]);
  rk::add_parts(a.scratch, a.count, a.dgamma);
  rk::add_parts(a.scratch, a.count + 1, a.dbeta);
}

}  // namespace rookery::RK_BACKEND
