// gold.cpp: w is read as two matrices side by side, [D, D] for x0 and [D, R] for c.
#include "kernels/ops/gold/gold.h"

#include <algorithm>
#include <vector>

#include "kernels/ops/activation/activation.h"
#include "kernels/ops/embedding/embedding.h"
#include "kernels/ops/matmul/matmul.h"
#include "kernels/ops/matmul/product.h"
#include "kernels/ops/norm/norm.h"
#include "kernels/ops/norm/rms_norm.h"
#include "kernels/ops/token_shift/token_shift.h"

namespace rookery::ops {
namespace {

constexpr auto kNorm = RK_KERNEL_GPU(rms_norm_forward);
constexpr auto kNormBackward = RK_KERNEL_GPU(rms_norm_backward);
constexpr auto kExpand = RK_KERNEL(gold_expand);
constexpr double kEps = 1e-8;

// The elements of a small tensor, wherever it lies.
template <class T>
std::vector<T> on_host(const Tensor& t) {
  std::vector<T> values(t.defined() ? static_cast<size_t>(t.numel()) : 0);
  if (t.defined()) download(t, values.data());
  return values;
}

// Tokens [begin, begin + count) of x [B, S, ...]: a copy.
Tensor tokens_of(const Tensor& x, int64_t begin, int64_t count) {
  const Tensor out = x.shape().size() == 2 ? empty({x.dim(0), count}, x.dtype(), x.device())
                                           : empty({x.dim(0), count, x.dim(2)}, x.dtype(), x.device());
  copy_columns(x, begin, count, out, 0);
  return out;
}

Tensor in_sums(const Tensor& t) {
  if (t.dtype() == sum_dtype(t.dtype())) return t;
  const Tensor out = empty(t.shape(), sum_dtype(t.dtype()), t.device());
  copy(t, out);
  return out;
}

// gold_expand by the operations of a training pass, in f32 where the model is bf16: on a GPU, where the
// blocks in cache of gold_cpu.cpp do not pay. One token more is read where its successor looks back at it.
std::pair<Tensor, Tensor> expand_by_operations(const GoldTokens& t, const GoldWeights& w, int64_t begin,
                                               int64_t count) {
  const int64_t skipped = begin > 0 ? 1 : 0, from = begin - skipped, n = count + skipped;
  const int64_t B = t.index.dim(0), D = t.values.dim(1), R = t.cache.dim(2);
  const Tensor index = tokens_of(t.index, from, n);
  const Var e = embedding(index, Var(t.values));           // [B, n, D]
  const Tensor z = embedding(index, Var(t.keys)).value();  // becomes that of gold_keys
  product(B * n, D, R, {tokens_of(t.cache, from, n), R}, {t.w, D + R, true, D}, true, {z, D});
  const Var keys = rms_norm(Var(z), Var(), kEps, RmsEps::kOutside);

  const auto weight = [](const Tensor& x) { return Var(in_sums(x)); };
  const Previous nothing{Var(), tokens_of(t.starts, from, n)};
  const Var mixed = shift_lerp(e, nothing, {weight(w.mix_hidden)})[0];
  const Var h = tanh(matmul(mixed, weight(w.mix_w1))), w2 = weight(w.mix_w2);  // [B, n, 2 M]
  const auto corrected = [&](const Var& x, const Tensor& down, const Tensor& up, const Tensor& gamma,
                             const Tensor& beta) {
    const Var more = matmul(tanh(matmul(x, weight(down))), weight(up));
    const Tensor y = layer_norm(add(x, more), weight(gamma), weight(beta)).value();
    const Tensor out = empty({B, count, D}, gamma.dtype(), y.device());
    copy(skipped == 0 ? y : tokens_of(y, skipped, count), out);
    return out;
  };
  const Var k = ddlerp(keys, nothing, {weight(w.mix_k), Var()}, h, w2)[0];
  const Var v = ddlerp(e, nothing, {Var(), weight(w.mix_v)}, h, w2)[1];
  return {corrected(k, w.key_w1, w.key_w2, w.ln_k_weight, w.ln_k_bias),
          corrected(v, w.value_w1, w.value_w2, w.ln_v_weight, w.ln_v_bias)};
}

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
  if (device.type() == DeviceType::kMeta)
    return {empty({1, std::min(B * length, vocab_size)}, DType::kI32, device),
            empty({B, length}, DType::kI32, device)};
  const std::vector<int32_t> all = on_host<int32_t>(ids);
  std::vector<int32_t> at(static_cast<size_t>(vocab_size), 0);  // 1 where an id occurs; then its row
  for (int64_t b = 0; b < B; ++b)
    for (int64_t s = 0; s < length; ++s)
      at[static_cast<size_t>(all[static_cast<size_t>(b * capacity + s)])] = 1;
  std::vector<int32_t> found;
  for (size_t id = 0; id < at.size(); ++id) {
    if (at[id] == 0) continue;
    at[id] = static_cast<int32_t>(found.size());
    found.push_back(static_cast<int32_t>(id));
  }
  std::vector<int32_t> index;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t s = 0; s < length; ++s)
      index.push_back(at[static_cast<size_t>(all[static_cast<size_t>(b * capacity + s)])]);
  return {tensor_from(std::span<const int32_t>(found), {1, static_cast<int64_t>(found.size())}, DType::kI32,
                      device),
          tensor_from(std::span<const int32_t>(index), {B, length}, DType::kI32, device)};
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
  GoldTokens tokens{index,
                    rms_norm(Var(in_sums(x0)), Var(), kEps, RmsEps::kOutside).value().reshape({U, D}),
                    empty({U, D}, sum_dtype(x0.dtype()), device),
                    cache,
                    w,
                    empty({B, S}, DType::kU8, device),
                    0};
  product(U, D, D, {x0, D}, {w, D + R, true}, false, {tokens.keys, D});
  if (doc_start.defined())
    RK_CHECK(doc_start.dim(0) == B && doc_start.dim(1) <= S, "[gold_tokens] doc_start");
  if (document.defined()) check_shape(document, {B}, "[gold_tokens] document");
  if (device.type() == DeviceType::kMeta) return tokens;
  const std::vector<int32_t> begins = on_host<int32_t>(document);
  const std::vector<uint8_t> last = on_host<uint8_t>(doc_start);
  if (document.defined()) tokens.first = *std::min_element(begins.begin(), begins.end());
  std::vector<uint8_t> starts(static_cast<size_t>(B * S), 0);
  for (int64_t b = 0; b < B; ++b) {
    const auto row = starts.begin() + b * S;
    row[0] = 1;
    if (document.defined()) row[begins[static_cast<size_t>(b)]] = 1;
    if (!doc_start.defined()) continue;
    const int64_t T = doc_start.dim(1);
    std::copy_n(last.begin() + b * T, T, row + S - T);
  }
  upload(starts.data(), tokens.starts);
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
  if (device.target() != DeviceType::kCpu) return expand_by_operations(t, w, begin, count);
  const DType dtype = t.values.dtype();
  const Tensor k = empty({B, count, D}, dtype, device), v = empty({B, count, D}, dtype, device);
  kExpand(device,
          {t, w, begin, k, v, empty({device.pool().num_threads(), gold_scratch(D, M, P)}, dtype, device)});
  return {k, v};
}

}  // namespace rookery::ops
