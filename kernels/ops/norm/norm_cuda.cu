// norm_cuda.cu: a team of threads per group of a row (kernels/ops/row_team.h); what a row needs more than
// once is read again from the cache.
#include "kernels/ops/norm/norm.h"
#include "kernels/ops/row_team.h"

namespace rookery::RK_BACKEND {
namespace {

template <class T>
struct NormView {
  const T *x, *gamma, *beta, *gate;  // gate may be null
  float *mean, *rstd;
};

template <class T>
__global__ void norm_forward_kernel(NormView<T> a, T* y, rk::Rows rows, float eps) {
  rk::RowTeam team(rows);
  const int64_t channel = team.channel();
  const float n = static_cast<float>(rows.N);
  team.each_row([&](int64_t row) {
    const int64_t at = row * rows.C() + channel;
    float sum = 0, square = 0;
    team.each_pack([&](int64_t i) {
      const rk::Pack x = team.load(a.x + at, i);
      for (int j = 0; j < rk::kPack; ++j) sum += x[j];
    });
    const float mean = team.sum(sum) / n;
    team.each_pack([&](int64_t i) {
      const rk::Pack x = team.load(a.x + at, i);
      for (int j = 0; j < rk::kPack; ++j)
        if (i + j < rows.N) square += (x[j] - mean) * (x[j] - mean);
    });
    const float rstd = 1.0f / sqrtf(team.sum(square) / n + eps);
    if (team.is_first()) {
      a.mean[row * rows.groups + team.group()] = mean;
      a.rstd[row * rows.groups + team.group()] = rstd;
    }
    team.each_pack([&](int64_t i) {
      rk::Pack x = team.load(a.x + at, i);
      const rk::Pack gamma = team.load(a.gamma + channel, i), beta = team.load(a.beta + channel, i);
      for (int j = 0; j < rk::kPack; ++j) x[j] = (x[j] - mean) * rstd * gamma[j] + beta[j];
      if (a.gate != nullptr) {
        const rk::Pack gate = team.load(a.gate + at, i);
        for (int j = 0; j < rk::kPack; ++j) x[j] *= rk::silu(gate[j]);
      }
      team.store(y + at, i, x);
    });
  });
}

// A pack of dz = dy silu(gate).
template <class T>
RK_DEV rk::Pack gated_gradient(const rk::RowTeam& team, const NormView<T>& a, const T* dy, int64_t at,
                               int64_t i) {
  rk::Pack dz = team.load(dy + at, i);
  if (a.gate != nullptr) {
    const rk::Pack gate = team.load(a.gate + at, i);
    for (int j = 0; j < rk::kPack; ++j) dz[j] *= rk::silu(gate[j]);
  }
  return dz;
}

// dx = rstd (q - mean(q) - xhat mean(q xhat)) with q = dz gamma; dgate = dy z silu'(gate). partial may be
// null.
template <class T>
__global__ void norm_backward_kernel(NormView<T> a, const T* dy, rk::GradOut dx, rk::GradOut dgate,
                                     float* partial, rk::Rows rows) {
  rk::RowTeam team(rows);
  const int64_t channel = team.channel();
  const float n = static_cast<float>(rows.N);
  if (partial != nullptr) team.clear_columns(2);
  team.each_row([&](int64_t row) {
    const int64_t at = row * rows.C() + channel, group = row * rows.groups + team.group();
    const float mean = team.has_group() ? a.mean[group] : 0, rstd = team.has_group() ? a.rstd[group] : 0;
    float sums[2] = {0, 0};  // of q, of q xhat
    team.each_pack([&](int64_t i) {
      const rk::Pack dz = gated_gradient(team, a, dy, at, i), gamma = team.load(a.gamma + channel, i);
      rk::Pack xhat = team.load(a.x + at, i);
      for (int j = 0; j < rk::kPack; ++j) {
        xhat[j] = (xhat[j] - mean) * rstd;
        sums[0] += dz[j] * gamma[j];
        sums[1] += dz[j] * gamma[j] * xhat[j];
      }
      if (partial != nullptr) {
        rk::Pack part;
        for (int j = 0; j < rk::kPack; ++j) part[j] = dz[j] * xhat[j];
        team.add_to_column(0, i, part);
        team.add_to_column(1, i, dz);
      }
      if (dgate.wanted()) {
        const rk::Pack gate = team.load(a.gate + at, i), beta = team.load(a.beta + channel, i);
        rk::Pack d = team.load(dy + at, i);
        for (int j = 0; j < rk::kPack; ++j) {
          const float s = rk::sigmoid(gate[j]);
          d[j] *= (xhat[j] * gamma[j] + beta[j]) * s * (1.0f + gate[j] * (1.0f - s));
        }
        team.store(dgate, at, i, d);
      }
    });
    if (!dx.wanted()) return;
    team.add_up(sums);
    const float q_mean = sums[0] / n, qx_mean = sums[1] / n;
    team.each_pack([&](int64_t i) {
      rk::Pack d = gated_gradient(team, a, dy, at, i);
      const rk::Pack x = team.load(a.x + at, i), gamma = team.load(a.gamma + channel, i);
      for (int j = 0; j < rk::kPack; ++j)
        d[j] = rstd * (d[j] * gamma[j] - q_mean - (x[j] - mean) * rstd * qx_mean);
      team.store(dx, at, i, d);
    });
  });
  if (partial != nullptr) team.write_columns(2, partial);
}

template <class T, class A>
NormView<T> norm_view(const A& a) {
  return {a.x.template data<T>(),      a.gamma.template data<T>(),    a.beta.template data<T>(),
          rk::data_or_null<T>(a.gate), a.mean.template data<float>(), a.rstd.template data<float>()};
}

}  // namespace

void norm_forward(const NormArgs& a) {
  const int64_t C = a.gamma.numel(), M = a.x.numel() / C, N = C / a.num_groups;
  dispatch_gpu_float(a.x.dtype(), [&]<class T>() {
    const rk::RowsLaunch r(M, a.num_groups, N, rk::blocks_of_rows(M), 0);
    rk::launch(a.x.device(), norm_forward_kernel<T>, r.launch, norm_view<T>(a), a.y.data<T>(), r.rows,
               static_cast<float>(a.eps));
  });
}

void norm_backward(const NormGrad& a) {
  const int64_t C = a.gamma.numel(), M = a.x.numel() / C, N = C / a.num_groups;
  const bool sums = a.partial.defined();
  dispatch_gpu_float(a.x.dtype(), [&]<class T>() {
    const rk::RowsLaunch r(M, a.num_groups, N, sums ? a.partial.dim(0) : rk::blocks_of_rows(M), sums ? 2 : 0);
    rk::launch(a.x.device(), norm_backward_kernel<T>, r.launch, norm_view<T>(a), a.dy.data<T>(),
               rk::grad_out(a.dx), rk::grad_out(a.dgate), sums ? a.partial.data<float>() : nullptr, r.rows);
  });
  rk::add_parts(a.partial, 0, a.dgamma);
  rk::add_parts(a.partial, 1, a.dbeta);
}

}  // namespace rookery::RK_BACKEND
