// embedding_cuda.cu: rows are copied; for the gradient the tokens are sorted by id, so that one block owns
// all that is added to a row, in the order of the tokens.
#include "kernels/ops/embedding/embedding.h"
#include "kernels/ops/row_team.h"

namespace rookery::RK_BACKEND {
namespace {

template <class T>
__global__ void gather_kernel(const int32_t* ids, const T* table, T* y, int64_t tokens, int64_t C,
                              int64_t first, int64_t vocab) {
  const auto [row, i] = rk::row_pack(C);
  if (row >= tokens) return;
  const int64_t v = ids[row] - first;
  rk::store_pack(y + row * C, i, C, v >= 0 && v < vocab ? rk::load_pack(table + v * C, i, C) : rk::Pack{});
}

// order[place] = token; the place of a token is the number of those with a lower id, or the same and before
// it.
template <int kTile>
__global__ void sort_kernel(const int32_t* ids, int32_t* order, int64_t tokens) {
  auto [tile] = rk::SharedLayout<int32_t[kTile]>::carve();
  const int64_t token = int64_t{blockIdx.x} * kTile + threadIdx.x;
  const int32_t id = token < tokens ? ids[token] : 0;
  int64_t place = 0;
  for (int64_t base = 0; base < tokens; base += kTile) {
    const int n = static_cast<int>(tokens - base < kTile ? tokens - base : kTile);
    __syncthreads();  // all have read the tile before
    if (static_cast<int>(threadIdx.x) < n) tile[threadIdx.x] = ids[base + threadIdx.x];
    __syncthreads();
    for (int j = 0; j < n; ++j) place += tile[j] < id || (tile[j] == id && base + j < token);
  }
  if (token < tokens) order[place] = static_cast<int32_t>(token);
}

// A block per place: that of the first token with its id adds up the rows of all of them.
template <class T>
__global__ void add_rows_kernel(const int32_t* ids, const int32_t* order, const T* dy, rk::GradOut dtable,
                                int64_t tokens, int64_t C, int64_t first, int64_t vocab) {
  const int64_t begin = blockIdx.x;
  const int32_t id = ids[order[begin]];
  const int64_t v = id - first;
  if (v < 0 || v >= vocab) return;
  if (begin > 0 && ids[order[begin - 1]] == id) return;
  const int64_t i = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * rk::kPack;
  if (i >= C) return;
  int64_t end = begin + 1;
  while (end < tokens && ids[order[end]] == id) ++end;
  rk::Pack sum{};
#pragma unroll 4
  for (int64_t place = begin; place < end; ++place) {
    const rk::Pack d = rk::load_pack(dy + order[place] * C, i, C);
    for (int j = 0; j < rk::kPack; ++j) sum[j] += d[j];
  }
  dtable.store(v * C + i, (v + 1) * C, sum);
}

}  // namespace

void embedding_forward(const EmbeddingArgs& a) {
  const int64_t C = a.table.dim(1), tokens = a.ids.numel();
  dispatch_gpu_float(a.y.dtype(), [&]<class T>() {
    rk::launch(a.y.device(), gather_kernel<T>, rk::row_pack_launch(tokens, C), a.ids.data<int32_t>(),
               a.table.data<T>(), a.y.data<T>(), tokens, C, a.first, a.table.dim(0));
  });
}

void embedding_backward(const EmbeddingGrad& a) {
  const int64_t tokens = a.ids.numel(), C = a.dtable.tensor.dim(1);
  if (!a.dtable.accumulate) fill_zero(a.dtable.tensor);  // rows that no token used
  const int32_t* ids = a.ids.data<int32_t>();
  int32_t* order = a.order.data<int32_t>();
  const Device& device = a.dy.device();
  constexpr int kThreads = rk::kPackThreads;
  rk::launch(device, sort_kernel<kThreads>,
             {dim3(static_cast<unsigned>((tokens + kThreads - 1) / kThreads)), dim3(kThreads),
              rk::SharedLayout<int32_t[kThreads]>::kBytes},
             ids, order, tokens);
  const rk::Launch columns = rk::pack_launch(C);
  dispatch_gpu_float(a.dy.dtype(), [&]<class T>() {
    rk::launch(device, add_rows_kernel<T>,
               {dim3(static_cast<unsigned>(tokens), columns.grid.x), columns.block}, ids, order,
               a.dy.data<T>(), rk::grad_out(a.dtable), tokens, C, a.first, a.dtable.tensor.dim(0));
  });
}

}  // namespace rookery::RK_BACKEND
