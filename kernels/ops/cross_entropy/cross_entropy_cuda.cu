// cross_entropy_cuda.cu: a block per row. One sweep takes the largest logit and the sum of exponentials
// together and leaves the row in shared memory where it fits; a second one writes the gradient in its place.
#include "kernels/ops/cross_entropy/cross_entropy.h"
#include "kernels/ops/row_team.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr int kThreads = 256;
constexpr int kRowThreads = 1024;         // a row in shared memory leaves room for one block per processor
constexpr size_t kRowBytes = 160 << 10;   // of shared memory, for a row: what a block has from sm_80 on
constexpr int64_t kMostLogits = 1 << 24;  // indices are compared as floats

template <class T>
struct RowsView {
  T* logits;
  const int32_t* targets;
  const float* mask;  // may be null
  float* row_loss;
  float scale, l2wrap;
  bool want_grad, keep;  // keep: the row fits in shared memory
};

template <class T>
__global__ void __launch_bounds__(kRowThreads) cross_entropy_kernel(RowsView<T> a, rk::Rows rows) {
  rk::RowTeam team(rows);
  T* kept = reinterpret_cast<T*>(team.rest());  // a thread reads back what it wrote: no barrier
  team.each_row([&](int64_t row) {
    T* y = a.logits + row * rows.N;
    const float mask = a.mask != nullptr ? a.mask[row] : 1.0f;
    if (mask == 0) {
      if (team.is_first()) a.row_loss[row] = 0;
      if (a.want_grad) team.each_pack([&](int64_t i) { team.store(y, i, rk::Pack{}); });
      return;
    }
    const int64_t target = a.targets[row];
    float own_largest = -INFINITY, sums[2] = {0, 0};  // of exponentials; the target's logit
    int64_t own_first = 0;
    team.each_pack([&](int64_t i) {
      rk::Pack x = team.load(y, i);
      if (a.keep) team.store(kept, i, x);
      const float before = own_largest;
      for (int j = 0; j < rk::kPack; ++j) {
        if (i + j >= rows.N) x[j] = -INFINITY;
        if (x[j] > own_largest) {
          own_largest = x[j];
          own_first = i + j;
        }
        if (i + j == target) sums[1] = x[j];
      }
      if (own_largest > before) sums[0] *= expf(before - own_largest);
      for (int j = 0; j < rk::kPack; ++j) sums[0] += expf(x[j] - own_largest);
    });
    const float largest = team.max(own_largest);
    if (own_largest < largest) sums[0] *= expf(own_largest - largest);
    team.add_up(sums);
    if (team.is_first()) a.row_loss[row] = logf(sums[0]) + largest - sums[1];
    if (!a.want_grad) return;
    // The first of the largest.
    const float no_index = static_cast<float>(-kMostLogits);
    const int64_t argmax =
        static_cast<int64_t>(-team.max(own_largest == largest ? -static_cast<float>(own_first) : no_index));
    const float scale = mask * a.scale, factor = scale / sums[0], pull = mask * a.l2wrap * largest;
    team.each_pack([&](int64_t i) {
      rk::Pack x = a.keep ? team.load(kept, i) : team.load(y, i);
      for (int j = 0; j < rk::kPack; ++j) {
        x[j] = expf(x[j] - largest) * factor;
        if (i + j == target) x[j] -= scale;
        if (i + j == argmax) x[j] += pull;
      }
      team.store(y, i, x);
    });
  });
}

// --- the same where other ranks have the rest of each row ---
template <class T>
struct SliceView {
  RowsView<T> rows;
  int64_t first, m;
  float *largest, *argmax, *sums;
};

template <class T>
__global__ void __launch_bounds__(kRowThreads) slice_largest_kernel(SliceView<T> a, rk::Rows rows) {
  rk::RowTeam team(rows);
  team.each_row([&](int64_t row) {
    const T* y = a.rows.logits + row * rows.N;
    float largest = -INFINITY;
    team.each_pack([&](int64_t i) {
      const rk::Pack x = team.load(y, i);
      for (int j = 0; j < rk::kPack; ++j)
        if (i + j < rows.N && x[j] > largest) largest = x[j];
    });
    largest = team.max(largest);
    if (team.is_first()) a.largest[row] = largest;
  });
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) slice_sums_kernel(SliceView<T> a, rk::Rows rows) {
  rk::RowTeam team(rows);
  team.each_row([&](int64_t row) {
    const T* y = a.rows.logits + row * rows.N;
    const float largest = a.largest[row];
    const int64_t target = a.rows.targets[row] - a.first;
    float sums[2] = {0, 0}, argmax = -INFINITY;
    team.each_pack([&](int64_t i) {
      const rk::Pack x = team.load(y, i);
      for (int j = 0; j < rk::kPack; ++j) {
        if (i + j >= rows.N) break;
        sums[0] += expf(x[j] - largest);
        if (i + j == target) sums[1] = x[j];
        if (x[j] == largest) argmax = fmaxf(argmax, -static_cast<float>(a.first + i + j));
      }
    });
    team.add_up(sums);
    argmax = team.max(argmax);
    if (!team.is_first()) return;
    a.sums[row] = sums[0];
    a.sums[a.m + row] = sums[1];
    a.argmax[row] = argmax;
  });
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) slice_rows_kernel(SliceView<T> a, rk::Rows rows) {
  const rk::RowTeam team(rows);
  team.each_row([&](int64_t row) {
    const float mask = a.rows.mask != nullptr ? a.rows.mask[row] : 1.0f;
    const float largest = a.largest[row], sum = a.sums[row];
    if (team.is_first()) a.rows.row_loss[row] = mask == 0 ? 0 : logf(sum) + largest - a.sums[a.m + row];
    if (!a.rows.want_grad) return;
    T* y = a.rows.logits + row * rows.N;
    const int64_t target = a.rows.targets[row] - a.first;
    const int64_t argmax = a.rows.l2wrap == 0 ? -1 : static_cast<int64_t>(-a.argmax[row]) - a.first;
    const float scale = mask * a.rows.scale, factor = scale / sum, pull = mask * a.rows.l2wrap * largest;
    team.each_pack([&](int64_t i) {
      rk::Pack x = team.load(y, i);
      for (int j = 0; j < rk::kPack; ++j) {
        x[j] = mask == 0 ? 0 : expf(x[j] - largest) * factor;
        if (i + j == target) x[j] -= scale;
        if (i + j == argmax) x[j] += pull;
      }
      team.store(y, i, x);
    });
  });
}

template <class T>
RowsView<T> view_of(const CrossEntropyArgs& a, bool keep) {
  return {a.logits.data<T>(),
          a.targets.data<int32_t>(),
          rk::data_or_null<float>(a.mask),
          a.row_loss.data<float>(),
          static_cast<float>(a.scale),
          static_cast<float>(a.l2wrap),
          a.want_grad,
          keep};
}

// kernel<T>: one of the three.
template <class T>
void launch_slice(const CrossEntropySliceArgs& a, void (*kernel)(SliceView<T>, rk::Rows)) {
  const int64_t m = a.rows.logits.dim(0), vocab = a.rows.logits.dim(1);
  if (m == 0) return;
  const rk::RowsLaunch r(m, 1, vocab, rk::blocks_of_rows(m), 0, kRowThreads);
  const SliceView<T> view{
      view_of<T>(a.rows, false), a.first, m, a.largest.data<float>(), a.argmax.data<float>(),
      a.sums.data<float>()};
  rk::launch(a.rows.logits.device(), kernel, r.launch, view, r.rows);
}

// One block, in double as the CPU.
__global__ void loss_sum_kernel(const float* row_loss, const float* mask, int64_t rows, double count,
                                float* loss) {
  auto [partial] = rk::SharedLayout<double[kThreads]>::carve();
  double sum = 0;
  for (int64_t row = threadIdx.x; row < rows; row += kThreads)
    sum += static_cast<double>(row_loss[row]) * static_cast<double>(mask != nullptr ? mask[row] : 1.0f);
  partial[threadIdx.x] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) partial[threadIdx.x] += partial[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *loss = static_cast<float>(partial[0] / count);
}

template <class T>
__global__ void scale_kernel(const T* from, const float* factor, rk::GradOut to, int64_t n) {
  const int64_t at = rk::first_of_pack();
  if (at >= n) return;
  rk::Pack x = rk::load_pack(from, at, n);
  for (int j = 0; j < rk::kPack; ++j) x[j] *= *factor;
  to.store(at, n, x);
}

}  // namespace

void cross_entropy_rows(const CrossEntropyArgs& a) {
  const int64_t m = a.logits.dim(0), vocab = a.logits.dim(1);
  if (m == 0) return;
  RK_CHECK(vocab <= kMostLogits, "[cross_entropy] ", vocab, " logits, at most ", kMostLogits);
  dispatch_gpu_float(a.logits.dtype(), [&]<class T>() {
    rk::RowsLaunch r(m, 1, vocab, rk::blocks_of_rows(m), 0, kRowThreads);
    const size_t row_bytes = static_cast<size_t>(vocab) * sizeof(T);
    const bool keep = a.want_grad && row_bytes <= kRowBytes;
    if (keep) r.launch.smem += row_bytes;
    rk::launch(a.logits.device(), cross_entropy_kernel<T>, r.launch, view_of<T>(a, keep), r.rows);
  });
}

void cross_entropy_slice_largest(const CrossEntropySliceArgs& a) {
  dispatch_gpu_float(a.rows.logits.dtype(), [&]<class T>() { launch_slice<T>(a, slice_largest_kernel<T>); });
}
void cross_entropy_slice_sums(const CrossEntropySliceArgs& a) {
  dispatch_gpu_float(a.rows.logits.dtype(), [&]<class T>() { launch_slice<T>(a, slice_sums_kernel<T>); });
}
void cross_entropy_slice_rows(const CrossEntropySliceArgs& a) {
  dispatch_gpu_float(a.rows.logits.dtype(), [&]<class T>() { launch_slice<T>(a, slice_rows_kernel<T>); });
}
void cross_entropy_sum(const CrossEntropySumArgs& a) {
  rk::launch(a.loss.device(), loss_sum_kernel,
             {dim3(1), dim3(kThreads), rk::SharedLayout<double[kThreads]>::kBytes}, a.row_loss.data<float>(),
             rk::data_or_null<float>(a.mask), a.row_loss.numel(), a.count, a.loss.data<float>());
}

void scale_gradient(const ScaleGradientArgs& a) {
  const int64_t n = a.from.numel();
  if (n == 0) return;
  dispatch_gpu_float(a.from.dtype(), [&]<class T>() {
    rk::launch(a.from.device(), scale_kernel<T>, rk::pack_launch(n), a.from.data<T>(), a.factor.data<float>(),
               rk::grad_out(a.to), n);
  });
}

}  // namespace rookery::RK_BACKEND
