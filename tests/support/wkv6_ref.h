// wkv6_ref.h: the WKV6 recurrence and its adjoint, one token at a time in double, straight from the formulas
// of the Finch paper. The tests compare the kernels of kernels/ops/wkv6 with it; nothing else uses it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace rookery::testing {

// Inputs, outputs and gradients, row-major: r, k, v, w, y [B,T,H,N]; u [H,N]; states [B,H,N,N] = [key,
// value].
struct Wkv6Ref {
  int64_t B, T, H, N;
  std::vector<double> r, k, v, w, u, state0;  // state0 empty: zero
  std::vector<uint8_t> doc_start;             // empty: nowhere; else [B,T]: zero state before the token
  std::vector<double> y, state;
  std::vector<double> dr, dk, dv, dw, du, dstate0;

  int64_t row(int64_t b, int64_t t, int64_t h) const { return ((b * T + t) * H + h) * N; }
  bool starts(int64_t b, int64_t t) const { return !doc_start.empty() && doc_start[b * T + t]; }

  void forward() {
    y.assign(r.size(), 0.0);
    state.assign(B * H * N * N, 0.0);
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t h = 0; h < H; ++h) {
        std::vector<double> S = start(b, h);
        for (int64_t t = 0; t < T; ++t) {
          if (starts(b, t)) S.assign(N * N, 0.0);
          const int64_t at = row(b, t, h);
          for (int64_t i = 0; i < N; ++i) {
            for (int64_t j = 0; j < N; ++j) {
              y[at + j] += r[at + i] * (S[i * N + j] + u[h * N + i] * k[at + i] * v[at + j]);
            }
          }
          update(at, S);
        }
        std::copy(S.begin(), S.end(), state.begin() + (b * H + h) * N * N);
      }
    }
  }

  // dy [B,T,H,N] and dstate [B,H,N,N]: gradients of y and of the final state.
  void backward(const std::vector<double>& dy, const std::vector<double>& dstate) {
    dr.assign(r.size(), 0.0), dk = dr, dv = dr, dw = dr;
    du.assign(u.size(), 0.0);
    dstate0.assign(B * H * N * N, 0.0);
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t h = 0; h < H; ++h) {
        std::vector<std::vector<double>> before;  // the state that each token reads
        std::vector<double> S = start(b, h);
        for (int64_t t = 0; t < T; ++t) {
          if (starts(b, t)) S.assign(N * N, 0.0);
          before.push_back(S);
          update(row(b, t, h), S);
        }
        std::vector<double> D(dstate.begin() + (b * H + h) * N * N, dstate.begin() + (b * H + h + 1) * N * N);
        for (int64_t t = T - 1; t >= 0; --t) {
          const int64_t at = row(b, t, h);
          for (int64_t i = 0; i < N; ++i) {
            const double decay = std::exp(-std::exp(w[at + i])), bonus = u[h * N + i];
            double crossing = 0;
            for (int64_t j = 0; j < N; ++j) {
              const double s = before[t][i * N + j], d = D[i * N + j], g = dy[at + j], vv = v[at + j];
              dr[at + i] += g * (s + bonus * k[at + i] * vv);
              dk[at + i] += (d + r[at + i] * bonus * g) * vv;
              dv[at + j] += (d + r[at + i] * bonus * g) * k[at + i];
              du[h * N + i] += r[at + i] * k[at + i] * g * vv;
              crossing += d * s;
              D[i * N + j] = decay * d + r[at + i] * g;
            }
            // Beyond exp(-exp(7)) the decay is 0 in double and exp(w) may be infinite.
            dw[at + i] = decay > 0 ? -std::exp(w[at + i]) * decay * crossing : 0.0;
          }
          if (starts(b, t)) D.assign(N * N, 0.0);
        }
        std::copy(D.begin(), D.end(), dstate0.begin() + (b * H + h) * N * N);
      }
    }
  }

 private:
  std::vector<double> start(int64_t b, int64_t h) const {
    if (state0.empty()) return std::vector<double>(N * N, 0.0);
    return {state0.begin() + (b * H + h) * N * N, state0.begin() + (b * H + h + 1) * N * N};
  }
  void update(int64_t at, std::vector<double>& S) const {
    for (int64_t i = 0; i < N; ++i) {
      const double decay = std::exp(-std::exp(w[at + i]));
      for (int64_t j = 0; j < N; ++j) S[i * N + j] = decay * S[i * N + j] + k[at + i] * v[at + j];
    }
  }
};

}  // namespace rookery::testing
