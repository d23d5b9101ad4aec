// attention_cuda.cu: attention on the GPU: what comes before the kernels of attention_fma.h (f32) and
// attention_mma.h (bf16), and their launches. Arguments: attention.h; the running maximum and sum of a query:
// attention_cpu.cpp.
#include <algorithm>
#include <initializer_list>

#include "kernels/ops/attention/attention_fma.h"
#include "kernels/ops/attention/attention_mma.h"

namespace rookery::RK_BACKEND {
namespace {

template <class Args>
Sizes sizes(const Args& a) {
  return {a.q.dim(0), a.q.dim(1), a.k.dim(1), a.q.dim(2), a.k.dim(2), a.q.dim(3), a.past};
}
template <class T>
T* pointer(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}
int16_t* rests(const Tensor& t) { return t.defined() ? reinterpret_cast<int16_t*>(t.raw()) : nullptr; }
unsigned blocks(int64_t rows, int64_t rows_of_block) {
  return static_cast<unsigned>((rows + rows_of_block - 1) / rows_of_block);
}

using FirstShared = rk::SharedLayout<int64_t[kThreads]>;

// A block per sequence, a stretch of tokens per thread: the first key that each query sees.
__global__ void first_kernel(int32_t* first, const uint8_t* starts, const int32_t* document, int64_t tokens,
                             int64_t past, int64_t key) {
  auto [last] = FirstShared::carve();  // start in each stretch, -1: none
  const int64_t row = int64_t{blockIdx.x} * tokens, stretch = (tokens + kThreads - 1) / kThreads;
  const int64_t begin = least(threadIdx.x * stretch, tokens), end = least(begin + stretch, tokens);
  int64_t own = -1;
  for (int64_t t = begin; t < end; ++t)
    if (starts && starts[row + t]) own = t;
  last[threadIdx.x] = own;
  __syncthreads();
  int64_t seen = (document ? document[blockIdx.x] : 0) - key;
  for (unsigned i = 0; i < threadIdx.x; ++i)
    if (last[i] >= 0) seen = past + last[i];
  for (int64_t t = begin; t < end; ++t) {
    if (starts && starts[row + t]) seen = past + t;
    first[row + t] = static_cast<int32_t>(seen);
  }
}

// delta = y . dy of each query and head: a thread per pack, kTeam of them per row of D channels.
template <int kTeam, class T>
__global__ void delta_kernel(float* delta, Sizes n, const T* y, const int16_t* rest, const T* dy) {
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x, row = thread / kTeam;
  const int64_t i = thread % kTeam * rk::kPack, rows = n.B * n.tokens * n.Hq;
  float sum = 0;
  if (row < rows) {
    rk::Pack value = rk::load_pack(y + row * n.D, i, n.D);
    const rk::Pack slope = rk::load_pack(dy + row * n.D, i, n.D);
    if (rest) {
      const rk::Pack more = rk::load_pack(rest + row * n.D, i, n.D);
#pragma unroll
      for (int j = 0; j < rk::kPack; ++j) value[j] = with_rest(value[j], more[j]);
    }
#pragma unroll
    for (int j = 0; j < rk::kPack; ++j) sum += value[j] * slope[j];
  }
  for (int distance = kTeam / 2; distance > 0; distance /= 2) sum += rk::shfl_xor(sum, distance);
  if (row < rows && i == 0) delta[n.row_at(row / (n.tokens * n.Hq), row % n.Hq, row / n.Hq % n.tokens)] = sum;
}

// body.operator()<P>() with the least P >= D of the kernels, `least` or more.
template <int kLeast, class F>
void dispatch_head(int64_t D, F&& body) {
  if (D <= kLeast) {
    body.template operator()<kLeast>();
  } else if constexpr (kLeast < kAttentionGpuHead) {
    dispatch_head<2 * kLeast>(D, body);
  }
}

// Rows begin at multiples of 16 bytes.
bool aligned(int64_t D, std::initializer_list<const Tensor*> tensors) {
  return D % rk::kPack == 0 && std::all_of(tensors.begin(), tensors.end(), [](const Tensor* t) {
           return reinterpret_cast<uintptr_t>(t->raw()) % 16 == 0;
         });
}

template <class T>
Forward<T> forward_of(const AttentionArgs& a) {
  return {sizes(a),
          pointer<T>(a.q),
          pointer<T>(a.k),
          pointer<T>(a.v),
          pointer<int32_t>(a.first),
          static_cast<float>(a.scale),
          pointer<T>(a.y),
          rests(a.rest),
          pointer<float>(a.top),
          pointer<float>(a.weight),
          pointer<float>(a.sums),
          a.first_part,
          a.last_part};
}
template <class T>
Backward<T> backward_of(const AttentionGrad& a) {
  return {sizes(a),
          pointer<T>(a.q),
          pointer<T>(a.k),
          pointer<T>(a.v),
          pointer<T>(a.dy),
          pointer<int32_t>(a.first),
          static_cast<float>(a.scale),
          pointer<float>(a.top),
          pointer<float>(a.weight),
          pointer<float>(a.delta),
          rk::grad_out(a.dq),
          rk::grad_out(a.dk),
          rk::grad_out(a.dv)};
}
// Blocks of `rows` rows, heads and sequences.
dim3 grid_of(int64_t rows, int64_t rows_of_block, int64_t heads, int64_t B) {
  return {blocks(rows, rows_of_block), static_cast<unsigned>(heads), static_cast<unsigned>(B)};
}

}  // namespace

void attention_forward(const AttentionArgs& a) {
  const Sizes n = sizes(a);
  const Device& device = a.q.device();
  if (a.first.defined())
    rk::launch(device, first_kernel, {dim3(static_cast<unsigned>(n.B)), kThreads, FirstShared::kBytes},
               a.first.data<int32_t>(), pointer<uint8_t>(a.doc_start), pointer<int32_t>(a.document), n.tokens,
               a.past, a.key);
  if (a.q.dtype() == DType::kBF16) {
    dispatch_head<32>(n.D, [&]<int P>() {
      using Kernel = ForwardMma<P>;
      rk::launch(device, forward_mma<P>,
                 {grid_of(n.tokens, 64 * Kernel::M, n.Hq, n.B), kMmaThreads, Kernel::Shared::kBytes},
                 forward_of<bf16>(a), aligned(n.D, {&a.q, &a.k, &a.v}));
    });
  } else {
    dispatch_head<16>(n.D, [&]<int P>() {
      rk::launch(device, forward_fma<P>,
                 {grid_of(n.tokens, Tile<P>::kRows, n.Hq, n.B), kThreads, ForwardShared<P>::kBytes},
                 forward_of<float>(a));
    });
  }
}

void attention_backward(const AttentionGrad& a) {
  const Sizes n = sizes(a);
  const Device& device = a.q.device();
  const int64_t rows = n.B * n.tokens * n.Hq;
  const bool wants_keys = a.dk.tensor.defined() || a.dv.tensor.defined();
  dispatch_gpu_float(a.q.dtype(), [&]<class T>() {
    dispatch_head<32>(n.D, [&]<int P>() {
      constexpr int kTeam = P / rk::kPack;
      rk::launch(device, delta_kernel<kTeam, T>, {blocks(rows * kTeam, kThreads), kThreads},
                 pointer<float>(a.delta), n, pointer<T>(a.y), rests(a.rest), pointer<T>(a.dy));
    });
  });
  if (a.q.dtype() == DType::kBF16) {
    const bool whole = aligned(n.D, {&a.q, &a.k, &a.v, &a.dy});
    const Backward<bf16> x = backward_of<bf16>(a);
    dispatch_head<32>(n.D, [&]<int P>() {
      using OfQueries = QueryGradientMma<P>;
      if (a.dq.tensor.defined())
        rk::launch(device, query_gradient_mma<P>,
                   {grid_of(n.tokens, 64 * OfQueries::M, n.Hq, n.B), kMmaThreads, OfQueries::Shared::kBytes},
                   x, whole);
      if (wants_keys)
        rk::launch(device, key_gradient_mma<P>,
                   {grid_of(n.S, 64, n.Hkv, n.B), kMmaThreads, KeyGradientMma<P>::Shared::kBytes}, x, whole);
    });
  } else {
    const Backward<float> x = backward_of<float>(a);
    dispatch_head<16>(n.D, [&]<int P>() {
      constexpr size_t kBytes = BackwardShared<P>::kBytes;
      if (a.dq.tensor.defined())
        rk::launch(device, query_gradient_fma<P>,
                   {grid_of(n.tokens, Tile<P>::kRows, n.Hq, n.B), kThreads, kBytes}, x);
      if (wants_keys)
        rk::launch(device, key_gradient_fma<P>, {grid_of(n.S, Tile<P>::kRows, n.Hkv, n.B), kThreads, kBytes},
                   x);
    });
  }
}

}  // namespace rookery::RK_BACKEND
