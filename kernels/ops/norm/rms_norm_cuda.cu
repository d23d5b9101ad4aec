// rms_norm_cuda.cu: a team of threads per row (kernels/ops/row_team.h).
#include "kernels/ops/norm/rms_norm.h"
#include "kernels/ops/row_team.h"

namespace rookery::RK_BACKEND {
namespace {

// A pack of x gamma; gamma may be null.
template <class X, class T>
RK_DEV rk::Pack weighted(const rk::RowTeam& team, const X* x, const T* gamma, int64_t i) {
  rk::Pack out = team.load(x, i);
  if (gamma != nullptr) {
    const rk::Pack g = team.load(gamma, i);
    for (int j = 0; j < rk::kPack; ++j) out[j] *= g[j];
  }
  return out;
}

template <class X, class T>
__global__ void rms_norm_forward_kernel(const X* x, const T* gamma, T* y, float* rstds, rk::Rows rows,
                                        float eps, bool inside) {
  rk::RowTeam team(rows);
  team.each_row([&](int64_t row) {
    const X* from = x + row * rows.N;
    float square = 0;
    team.each_pack([&](int64_t i) {
      const rk::Pack v = team.load(from, i);
      for (int j = 0; j < rk::kPack; ++j) square += v[j] * v[j];
    });
    const float mean = team.sum(square) / static_cast<float>(rows.N);
    const float rstd = 1.0f / (inside ? sqrtf(mean + eps) : sqrtf(mean) + eps);
    if (team.is_first()) rstds[row] = rstd;
    team.each_pack([&](int64_t i) {
      rk::Pack v = weighted(team, from, gamma, i);
      for (int j = 0; j < rk::kPack; ++j) v[j] *= rstd;
      team.store(y + row * rows.N, i, v);
    });
  });
}

// As rms_norm_cpu.cpp: dx = r q - x d with q = dy gamma. rest and partial may be null.
template <class X, class T>
__global__ void rms_norm_backward_kernel(const X* x, const T* gamma, const float* rstds, const T* dy,
                                         rk::GradOut dx, bf16* rest, float* partial, rk::Rows rows, float eps,
                                         bool inside) {
  rk::RowTeam team(rows);
  if (partial != nullptr) team.clear_columns(1);
  team.each_row([&](int64_t row) {
    const int64_t at = row * rows.N;
    const float rstd = rstds[row];
    float dot = 0;
    team.each_pack([&](int64_t i) {
      const rk::Pack v = team.load(x + at, i), q = weighted(team, dy + at, gamma, i);
      for (int j = 0; j < rk::kPack; ++j) dot += q[j] * v[j];
      if (partial == nullptr) return;
      rk::Pack part = team.load(dy + at, i);
      for (int j = 0; j < rk::kPack; ++j) part[j] *= v[j] * rstd;
      team.add_to_column(0, i, part);
    });
    if (!dx.wanted()) return;
    const float mean = team.sum(dot) / static_cast<float>(rows.N);
    float d = rstd * rstd * rstd * mean;
    if (!inside) {
      const float rms = 1.0f / rstd - eps;
      d = rms > 0 ? rstd * rstd * mean / rms : 0;  // all of x is 0
    }
    team.each_pack([&](int64_t i) {
      const rk::Pack v = team.load(x + at, i);
      rk::Pack q = weighted(team, dy + at, gamma, i);
      for (int j = 0; j < rk::kPack; ++j) q[j] = rstd * q[j] - v[j] * d;
      team.store(dx, at, i, q);
      if (rest == nullptr) return;
      for (int j = 0; j < rk::kPack; ++j) q[j] -= float(bf16(q[j]));
      team.store(rest + at, i, q);
    });
  });
  if (partial != nullptr) team.write_columns(1, partial);
}

// body.operator()<X, T>(), the types of x and of all else.
template <class F>
void dispatch_input(DType x, DType other, F&& body) {
  dispatch_gpu_float(other, [&]<class T>() {
    if (x == DType::kF32) {
      body.template operator()<float, T>();
    } else {
      body.template operator()<T, T>();
    }
  });
}

}  // namespace

void rms_norm_forward(const RmsNormArgs& a) {
  const int64_t M = a.rstd.numel(), C = a.x.dim(-1);
  dispatch_input(a.x.dtype(), a.y.dtype(), [&]<class X, class T>() {
    const rk::RowsLaunch r(M, 1, C, rk::blocks_of_rows(M), 0);
    rk::launch(a.x.device(), rms_norm_forward_kernel<X, T>, r.launch, a.x.data<X>(),
               rk::data_or_null<T>(a.gamma), a.y.data<T>(), a.rstd.data<float>(), r.rows,
               static_cast<float>(a.eps), a.where == RmsEps::kInside);
  });
}

void rms_norm_backward(const RmsNormGrad& a) {
  const int64_t M = a.rstd.numel(), C = a.x.dim(-1);
  const bool sums = a.partial.defined();
  dispatch_input(a.x.dtype(), a.dy.dtype(), [&]<class X, class T>() {
    const rk::RowsLaunch r(M, 1, C, sums ? a.partial.dim(0) : rk::blocks_of_rows(M), sums ? 1 : 0);
    rk::launch(a.x.device(), rms_norm_backward_kernel<X, T>, r.launch, a.x.data<X>(),
               rk::data_or_null<T>(a.gamma), a.rstd.data<float>(), a.dy.data<T>(), rk::grad_out(a.dx),
               a.rest.defined() ? a.rest.data<bf16>() : nullptr, sums ? a.partial.data<float>() : nullptr,
               r.rows, static_cast<float>(a.eps), a.where == RmsEps::kInside);
  });
  if (sums) rk::add_parts(a.partial, 0, a.dgamma);
}

}  // namespace rookery::RK_BACKEND
