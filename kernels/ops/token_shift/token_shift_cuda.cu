// token_shift_cuda.cu: a thread has its channels. Forward each row on its own; backward it walks up the rows
// of a part, so that what a row sends to the one before it waits in registers.
#include "kernels/ops/row_team.h"
#include "kernels/ops/token_shift/token_shift.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr int kMixes = ops::kMaxMixes, kPack = rk::kPack;

template <class T>
struct ShiftView {
  const T *x, *carried;      // carried may be null,
  const uint8_t* doc_start;  // this too
  const T* mu[kMixes];
  T* m;  // [count, rows, C] or null
  int count;
  int64_t rows, seq_len, C;

  RK_DEV bool starts(int64_t row) const { return doc_start != nullptr && doc_start[row] != 0; }
  // A pack of channels of the row before.
  RK_DEV rk::Pack previous(int64_t row, int64_t i) const {
    if (starts(row)) return rk::Pack{};
    if (row % seq_len != 0) return rk::load_pack(x + (row - 1) * C, i, C);
    return carried != nullptr ? rk::load_pack(carried + row / seq_len * C, i, C) : rk::Pack{};
  }
  RK_DEV T* m_of(int q, int64_t row) const { return m + (q * rows + row) * C; }
  // mu[q] + m_q.
  RK_DEV rk::Pack weight(int q, int64_t row, int64_t i) const {
    rk::Pack w = rk::load_pack(mu[q], i, C);
    if (m != nullptr) {
      const rk::Pack more = rk::load_pack(m_of(q, row), i, C);
      for (int j = 0; j < kPack; ++j) w[j] += more[j];
    }
    return w;
  }
};

template <class T>
struct Mixes {
  T* of[kMixes];  // null: not computed, or zero
};

template <class T>
__global__ void shift_forward_kernel(ShiftView<T> a, Mixes<T> out) {
  const auto [row, i] = rk::row_pack(a.C);
  if (row >= a.rows) return;
  const rk::Pack x = rk::load_pack(a.x + row * a.C, i, a.C), previous = a.previous(row, i);
#pragma unroll
  for (int q = 0; q < kMixes; ++q) {
    if (q >= a.count || out.of[q] == nullptr) continue;
    rk::Pack y = a.weight(q, row, i);
    for (int j = 0; j < kPack; ++j) y[j] = x[j] + (previous[j] - x[j]) * y[j];
    rk::store_pack(out.of[q] + row * a.C, i, a.C, y);
  }
}

RK_DEV int64_t part_begin(int64_t rows, int64_t part, int64_t parts) { return rows * part / parts; }

// What the first row of each part sends to the part before it: sum over q of d (mu + m), to row `count` of
// partial [parts, count + 1, C]. It goes first, for the kernel below writes over m.
template <class T>
__global__ void shift_border_kernel(ShiftView<T> a, Mixes<const T> dout, float* partial) {
  const int64_t i = rk::first_of_pack(), part = blockIdx.y, row = part_begin(a.rows, part, gridDim.y);
  if (i >= a.C) return;
  rk::Pack sum{};
#pragma unroll
  for (int q = 0; q < kMixes; ++q) {
    if (q >= a.count || dout.of[q] == nullptr) continue;
    const rk::Pack d = rk::load_pack(dout.of[q] + row * a.C, i, a.C), w = a.weight(q, row, i);
    for (int j = 0; j < kPack; ++j) sum[j] += d[j] * w[j];
  }
  rk::store_pack(partial + (part * (a.count + 1) + a.count) * a.C, i, a.C, sum);
}

// With M = mu + m: dx of a row = sum d (1 - M) + sum d' M' of the next row, dm = d (previous - x) over m, dmu
// = sum of dm over the rows of the part.
template <class T>
__global__ void shift_backward_kernel(ShiftView<T> a, Mixes<const T> dout, rk::GradOut dx,
                                      rk::GradOut dcarried, float* partial) {
  const int64_t i = rk::first_of_pack(), part = blockIdx.y, parts = gridDim.y, C = a.C;
  if (i >= C) return;
  const auto partial_row = [&](int64_t p, int64_t q) { return partial + (p * (a.count + 1) + q) * C; };
  const int64_t begin = part_begin(a.rows, part, parts), end = part_begin(a.rows, part + 1, parts);
  const auto passes_back = [&](int64_t row) { return row % a.seq_len != 0 && !a.starts(row); };
  rk::Pack dmu[kMixes] = {}, from_next{};
  if (part + 1 < parts && passes_back(end)) from_next = rk::load_pack(partial_row(part + 1, a.count), i, C);
  for (int64_t row = end - 1; row >= begin; --row) {
    const rk::Pack x = rk::load_pack(a.x + row * C, i, C), previous = a.previous(row, i);
    rk::Pack own = from_next, back{};
#pragma unroll
    for (int q = 0; q < kMixes; ++q) {
      if (q >= a.count) continue;
      rk::Pack dm{};
      if (dout.of[q] != nullptr) {
        const rk::Pack d = rk::load_pack(dout.of[q] + row * C, i, C), w = a.weight(q, row, i);
        for (int j = 0; j < kPack; ++j) {
          own[j] += d[j] - d[j] * w[j];
          back[j] += d[j] * w[j];
          dm[j] = d[j] * (previous[j] - x[j]);
          dmu[q][j] += dm[j];
        }
      }
      if (a.m != nullptr) rk::store_pack(a.m_of(q, row), i, C, dm);
    }
    if (dx.wanted()) dx.store(row * C + i, (row + 1) * C, own);
    from_next = passes_back(row) ? back : rk::Pack{};
    if (row % a.seq_len == 0 && dcarried.wanted()) {
      const int64_t b = row / a.seq_len;
      dcarried.store(b * C + i, (b + 1) * C, a.starts(row) ? rk::Pack{} : back);
    }
  }
#pragma unroll
  for (int q = 0; q < kMixes; ++q)
    if (q < a.count) rk::store_pack(partial_row(part, q), i, C, dmu[q]);
}

template <class T, class A>
ShiftView<T> shift_view(const A& a) {
  ShiftView<T> v{a.x.template data<T>(),
                 rk::data_or_null<T>(a.carried),
                 rk::data_or_null<uint8_t>(a.doc_start),
                 {},
                 a.m.defined() ? a.m.template data<T>() : nullptr,
                 a.count,
                 a.x.dim(0) * a.x.dim(1),
                 a.x.dim(1),
                 a.x.dim(2)};
  for (int q = 0; q < a.count; ++q) v.mu[q] = rk::data_or_null<T>(a.mu[q]);
  return v;
}

}  // namespace

void shift_forward(const ShiftArgs& a) {
  dispatch_gpu_float(a.x.dtype(), [&]<class T>() {
    Mixes<T> out{};
    for (int q = 0; q < a.count; ++q) out.of[q] = a.out[q].defined() ? a.out[q].data<T>() : nullptr;
    rk::launch(a.x.device(), shift_forward_kernel<T>,
               rk::row_pack_launch(a.x.dim(0) * a.x.dim(1), a.x.dim(2)), shift_view<T>(a), out);
  });
}

void shift_backward(const ShiftGrad& a) {
  rk::Launch launch = rk::pack_launch(a.x.dim(2));
  launch.grid.y = static_cast<unsigned>(a.scratch.dim(0));
  float* partial = a.scratch.data<float>();
  dispatch_gpu_float(a.x.dtype(), [&]<class T>() {
    Mixes<const T> dout{};
    for (int q = 0; q < a.count; ++q) dout.of[q] = rk::data_or_null<T>(a.dout[q]);
    rk::launch(a.x.device(), shift_border_kernel<T>, launch, shift_view<T>(a), dout, partial);
    rk::launch(a.x.device(), shift_backward_kernel<T>, launch, shift_view<T>(a), dout, rk::grad_out(a.dx),
               rk::grad_out(a.dcarried), partial);
  });
  for (int q = 0; q < a.count; ++q) rk::add_parts(a.scratch, q, a.dmu[q]);
}

}  // namespace rookery::RK_BACKEND
