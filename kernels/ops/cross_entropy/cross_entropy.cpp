// cross_entropy.cpp: blocks of rows: logits, loss and gradient in place, both products of the backward.
#include "kernels/ops/cross_entropy/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "kernels/ops/matmul/product.h"

namespace rookery::ops {
namespace {

constexpr auto kRows = RK_KERNEL_GPU(cross_entropy_rows);
constexpr auto kLargest = RK_KERNEL_GPU(cross_entropy_slice_largest);
constexpr auto kSliceSums = RK_KERNEL_GPU(cross_entropy_slice_sums);
constexpr auto kSliceRows = RK_KERNEL_GPU(cross_entropy_slice_rows);
constexpr auto kSum = RK_KERNEL_GPU(cross_entropy_sum);
constexpr auto kScale = RK_KERNEL_GPU(scale_gradient);

constexpr int64_t kMostWords = 1 << 24;  // ids are compared as floats

void run_rows(const CrossEntropyArgs& rows, const VocabSlice& slice) {
  Device& device = rows.logits.device();
  if (!slice.sum) return kRows(device, rows);
  const int64_t m = rows.logits.dim(0);
  const Tensor own = empty({4, m}, rows.row_loss.dtype(), device);
  const CrossEntropySliceArgs args{rows, slice.first, own.narrow(0, 1), own.narrow(1, 1), own.narrow(2, 2)};
  kLargest(device, args);
  slice.max(args.largest);
  kSliceSums(device, args);
  slice.sum(args.sums);
  if (rows.want_grad && rows.l2wrap > 0) slice.max(args.argmax);
  kSliceRows(device, args);
}

}  // namespace

int64_t loss_block_rows(const Device& device, int64_t M, int64_t V) {
  const int64_t logits = device.target() == DeviceType::kCpu ? int64_t{8} << 20 : int64_t{256} << 20;
  return std::min<int64_t>(M, std::max<int64_t>(128, logits / V / 64 * 64));
}

LossOut linear_cross_entropy(const Var& x, const Var& weight, const Tensor& targets, const Tensor& mask,
                             const LossOptions& options) {
  const auto [V, C] = weight.value().dims<2>("[cross_entropy] weight");
  const int64_t vocab = V, channels = C, M = x.value().numel() / C;
  RK_CHECK(x.shape().back() == C, "[cross_entropy] x ", x.shape(), " and weight ", weight.shape(),
           " do not fit");
  RK_CHECK(options.slice.first + V <= kMostWords, "[cross_entropy] ", options.slice.first + V,
           " words, at most ", kMostWords);
  RK_CHECK(targets.numel() == M, "[cross_entropy] ", targets.numel(), " targets for ", M, " rows");
  if (mask.defined())
    RK_CHECK(mask.numel() == M && mask.dtype() == sum_dtype(x.value().dtype()), "[cross_entropy] mask ",
             mask.shape(), " ", mask.dtype());
  Device& device = x.value().device();
  const DType dtype = x.value().dtype();
  RK_CHECK(options.count >= 0, "[cross_entropy] count ", options.count);
  const double count = options.count > 0 ? options.count : INFINITY;  // no targets: all is 0
  const bool want_dx = x.tracked(), want_dw = weight.tracked(), want_grad = want_dx || want_dw;
  const Tensor rows = x.value().reshape({M, C});
  const Tensor flat_targets = targets.reshape({M});
  const Tensor flat_mask = mask.defined() ? mask.reshape({M}) : Tensor();

  Tensor row_loss = empty({M}, sum_dtype(dtype), device);
  Tensor dx = want_dx ? empty({M, C}, dtype, device) : Tensor();
  Tensor dw = want_dw ? empty({V, C}, sum_dtype(dtype), device) : Tensor();  // added to by each block
  if (want_dw && M == 0) fill_zero(dw);
  const int64_t block =
      options.block_rows > 0 ? std::min(options.block_rows, M) : loss_block_rows(device, M, V);
  Tensor logits = empty({block, V}, dtype, device);
  for (int64_t begin = 0; begin < M; begin += block) {
    const int64_t m = std::min(block, M - begin);
    auto at = [&](const Tensor& t) { return t.defined() ? t.narrow(begin, m) : t; };
    const Tensor part = logits.narrow(0, m);
    const Matrix w{weight.value(), channels}, h{at(rows), channels};
    product(m, vocab, channels, h, {weight.value(), channels, true}, false, {part, vocab});
    run_rows(
        {part, at(flat_targets), at(flat_mask), at(row_loss), 1.0 / count, options.l2wrap / count, want_grad},
        options.slice);
    if (want_dx) product(m, channels, vocab, {part, vocab}, w, false, {at(dx), channels});
    if (want_dw) product(vocab, channels, m, {part, vocab, true}, h, begin > 0, {dw, channels});
  }

  Tensor loss = empty({1}, sum_dtype(dtype), device);
  kSum(device, {row_loss, flat_mask, count, loss});
  Var out =
      record("cross_entropy", {x, weight}, loss, [dx, dw, shape = x.shape()](const Tensor& dy, Grads& g) {
        auto scaled = [&](const Tensor& saved, int input, const Shape& like) {
          if (!g.wants(input)) return;
          const GradTarget target = g.into(input);
          check_shape(target.tensor, like, "[cross_entropy] gradient");
          kScale(dy.device(), {saved, dy, target});
        };
        scaled(dx, 0, shape);
        scaled(dw, 1, dw.shape());
      });
  return {out, row_loss};
}

}  // namespace rookery::ops
