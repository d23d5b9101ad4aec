// gold.cpp: w is read as two matrices side by side, [D, D] for x0 and [D, R] for c.
#include "kernels/ops/gold/gold.h"

#include <algorithm>
#include <vector>

#include "kernels/ops/matmul/product.h"
#include "kernels/ops/norm/rms_norm.h"

namespace rookery::ops {
namespace {

constexpr auto kNorm = RK_KERNEL_GPU(rms_norm_forward);
constexpr auto kNormBackward = RK_KERNEL_GPU(rms_norm_backward);
constexpr auto kExpand = RK_KERNEL(gold_expand);
constexpr double kEps = 1e-8;

}  // namespace

Var gold_keys(const Var& x0, const Var& c, const Var& w) {
  const auto [B, T, D] = x0.value().dims<3>("[gold_keys] x0");
  const int64_t R = c.shape().back(), M = B * T, K = D + R;
  check_shape(c.value(), {B, T, R}, "[gold_keys] c");
  check_shape(w.value(), {D, K}, "[gold_keys] w");
  // z keeps the precision of its sums: the gradient of the norm is what is left across z, with few channels a
  // small rest of larger terms.
  Device& device = x0.value().device();
  const Tensor z = empty({B, T, D}, sum_dtype(x0.value().dtype()), device),
               rstd = empty({M}, z.dtype(), device);
  const Tensor keys = empty_like(x0.value());
  product(M, D, D, {x0.value(), D}, {w.value(), K, true}, false, {z, D});
  product(M, D, R, {c.value(), R}, {w.value(), K, true, D}, true, {z, D});
  kNorm(device, {z, {}, keys, rstd, kEps, RmsEps::kOutside});
  return record("gold_keys", {x0, c, w}, keys,
                [x0 = x0.value(), c = c.value(), w = w.value(), z, rstd, M, D = D, R, K](const Tensor& dkeys,
                                                                                         Grads& g) {
                  // As for z, also in bf16: with what rounding takes from dz, multiplied first, so that each
                  // sum is rounded once.
                  RmsNormGrad norm{z, {}, rstd, dkeys, {empty_like(x0)}, {}, {}, kEps, RmsEps::kOutside};
                  std::vector<Tensor> dz{norm.dx.tensor};
                  if (x0.dtype() == DType::kBF16) dz.insert(dz.begin(), norm.rest = empty_like(x0));
                  kNormBackward(z.device(), norm);
                  // to [.., n], from `offset` on, (+)= dz b, or dz^T b.
                  const auto multiply = [&](int64_t m, int64_t n, int64_t k, bool transposed, const Matrix& b,
                                            const GradTarget& to, int64_t ld, int64_t offset) {
                    for (const Tensor& part : dz)
                      product(m, n, k, {part, D, transposed}, b, to.accumulate || &part != &dz[0],
                              {to.tensor, ld, false, offset});
                  };
                  if (g.wants(0)) multiply(M, D, D, false, {w, K}, g.into(0), D, 0);
                  if (g.wants(1)) multiply(M, R, D, false, {w, K, false, D}, g.into(1), R, 0);
                  if (g.wants(2)) {
                    const GradTarget dw = g.into(2);
                    multiply(D, D, M, true, {x0, D}, dw, K, 0);
                    multiply(D, R, M, true, {c, R}, dw, K, D);
                  }
                });
}

DistinctIds distinct_ids(const Tensor& ids, int64_t length, int64_t vocab_size) {
  const auto [B, capacity] = ids.dims<2>("[distinct_ids] ids");
  RK_CHECK(length > 0 && length <= capacity, "[distinct_ids] ", length, " of ", ids.shape());
  Device& device = ids.device();
  check_cpu("distinct_ids", device);
  DistinctIds d{{}, empty({B, length}, DType::kI32, device)};
  if (device.type() == DeviceType::kMeta) {
    d.ids = empty({1, std::min(B * length, vocab_size)}, DType::kI32, device);
    return d;
  }
  std::vector<int32_t> at(static_cast<size_t>(vocab_size), 0);  // 1 where an id occurs; then its row
  for (int64_t b = 0; b < B; ++b)
    for (int64_t s = 0; s < length; ++s) at[ids.data<int32_t>()[b * capacity + s]] = 1;
  std::vector<int32_t> found;
  for (size_t id = 0; id < at.size(); ++id) {
    if (at[id] == 0) continue;
    at[id] = static_cast<int32_t>(found.size());
    found.push_back(static_cast<int32_t>(id));
  }
  for (int64_t b = 0; b < B; ++b)
    for (int64_t s = 0; s < length; ++s)
      d.index.data<int32_t>()[b * length + s] = at[ids.data<int32_t>()[b * capacity + s]];
  d.ids = tensor_from(std::span<const int32_t>(found), {1, static_cast<int64_t>(found.size())}, DType::kI32,
                      device);
  return d;
}

GoldTokens gold_tokens(const Tensor& index, const Tensor& x0, const Tensor& cache, const Tensor& w,
                       const Tensor& doc_start, const Tensor& document) {
  const auto [B, S] = index.dims<2>("[gold_tokens] index");
  const auto [one, U, D] = x0.dims<3>("[gold_tokens] x0");
  const auto [rows, capacity, R] = cache.dims<3>("[gold_tokens] cache");
  RK_CHECK(one == 1 && rows == B && capacity >= S, "[gold_tokens] index ", index.shape(), ", x0 ", x0.shape(),
           ", cache ", cache.shape());
  check_shape(w, {D, D + R}, "[gold_tokens] w");
  Device& device = x0.device();
  check_cpu("gold_tokens", device);
  GoldTokens tokens{index,
                    rms_norm(Var(x0), Var(), kEps, RmsEps::kOutside).value().reshape({U, D}),
                    empty({U, D}, x0.dtype(), device),
                    cache,
                    w,
                    zeros({B, S}, DType::kU8, device),
                    0};
  product(U, D, D, {x0, D}, {w, D + R, true}, false, {tokens.keys, D});
  if (doc_start.defined())
    RK_CHECK(doc_start.dim(0) == B && doc_start.dim(1) <= S, "[gold_tokens] doc_start");
  if (document.defined()) check_shape(document, {B}, "[gold_tokens] document");
  if (device.type() == DeviceType::kMeta) return tokens;
  if (document.defined())
    tokens.first = *std::min_element(document.data<int32_t>(), document.data<int32_t>() + B);
  for (int64_t b = 0; b < B; ++b) {
    uint8_t* starts = tokens.starts.data<uint8_t>() + b * S;
    starts[0] = 1;
    if (document.defined()) starts[document.data<int32_t>()[b]] = 1;
    if (!doc_start.defined()) continue;
    const int64_t T = doc_start.dim(1);
    std::copy_n(doc_start.data<uint8_t>() + b * T, T, starts + S - T);
  }
  return tokens;
}

std::pair<Tensor, Tensor> gold_expand(const GoldTokens& t, const GoldWeights& w, int64_t begin,
                                      int64_t count) {
  const auto [B, S] = t.index.dims<2>("[gold_expand] index");
  const auto [D, width] = w.mix_w1.dims<2>("[gold_expand] mix_w1");
  const int64_t M = width / 2, P = w.key_w1.dim(1);
  RK_CHECK(begin >= 0 && count > 0 && begin + count <= S, "[gold_expand] ", count, " from ", begin, " of ",
           S);
  check_shape(t.keys, {t.values.dim(0), D}, "[gold_expand] keys");
  check_shape(w.mix_w2, {2, M, D}, "[gold_expand] mix_w2");
  for (const Tensor* x : {&w.key_w1, &w.value_w1}) check_shape(*x, {D, P}, "[gold_expand] w1");
  for (const Tensor* x : {&w.key_w2, &w.value_w2}) check_shape(*x, {P, D}, "[gold_expand] w2");
  for (const Tensor* x :
       {&w.mix_hidden, &w.mix_k, &w.mix_v, &w.ln_k_weight, &w.ln_k_bias, &w.ln_v_weight, &w.ln_v_bias})
    RK_CHECK(x->numel() == D, "[gold_expand] ", x->shape(), " for ", D, " channels");
  Device& device = t.values.device();
  const DType dtype = t.values.dtype();
  const Tensor k = empty({B, count, D}, dtype, device), v = empty({B, count, D}, dtype, device);
  kExpand(device,
          {t, w, begin, k, v, empty({device.pool().num_threads(), gold_scratch(D, M, P)}, dtype, device)});
  return {k, v};
}

}  // namespace rookery::ops
