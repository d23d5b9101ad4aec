// adamw_cuda.cu: one update in three launches: sums of squares per block, norm and clipping, then a block per
// tile. Nothing comes back to the host.
#include "kernels/cuda/pack.h"
#include "kernels/ops/adamw/adamw.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr int kThreads = 256;

// The sum over a block of kThreads, for its first thread.
RK_DEV double block_sum(double x, double* slots) {
  slots[threadIdx.x] = x;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) slots[threadIdx.x] += slots[threadIdx.x + half];
  }
  return threadIdx.x == 0 ? slots[0] : 0;
}
using SumSlots = rk::SharedLayout<double[kThreads]>;

// A block per kSquaresBlock elements.
template <class G>
__global__ void squares_kernel(const G* grad, int64_t n, double* sums) {
  auto [slots] = SumSlots::carve();
  const int64_t begin = blockIdx.x * kSquaresBlock;
  const int64_t end = begin + kSquaresBlock < n ? begin + kSquaresBlock : n;
  double sum = 0;
  for (int64_t i = begin + int64_t{threadIdx.x} * rk::kPack; i < end; i += kThreads * rk::kPack) {
    const rk::Pack g = rk::load_pack(grad, i, end);
    for (int j = 0; j < rk::kPack; ++j) sum += static_cast<double>(g[j]) * static_cast<double>(g[j]);
  }
  sum = block_sum(sum, slots);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One block: AdamwState from the sums.
__global__ void clip_kernel(const double* sums, int64_t blocks, const float* losses, int64_t num_losses,
                            double grad_clip, AdamwState* state) {
  auto [slots] = SumSlots::carve();
  double sum = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += kThreads) sum += sums[i];
  sum = block_sum(sum, slots);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(sum);
  bool finite = norm - norm == 0;
  for (int64_t i = 0; i < num_losses; ++i) finite = finite && losses[i] - losses[i] == 0;
  state->grad_norm = norm;
  state->clip = !finite ? 0 : grad_clip > 0 && grad_clip < norm + 1e-6 ? grad_clip / (norm + 1e-6) : 1;
  if (finite) state->updates += 1;
}

struct Rule {
  float lr, b1, b2, new1, new2, eps, decay, clip, correct1, correct2;
};

RK_DEV Rule rule_of(const AdamwRule& own, const AdamwState& state, double lr, double beta1, double beta2,
                    double eps) {
  const double n = state.updates - own.missed;
  return {static_cast<float>(lr * own.lr_scale),
          static_cast<float>(beta1),
          static_cast<float>(beta2),
          static_cast<float>(1 - beta1),
          static_cast<float>(1 - beta2),
          static_cast<float>(eps),
          static_cast<float>(own.weight_decay),
          static_cast<float>(state.clip),
          static_cast<float>(1 / (1 - pow(beta1, n))),
          static_cast<float>(1 / (1 - pow(beta2, n)))};
}

template <class G>
struct Flat {
  float *param, *m, *v;
  const G* grad;
  bf16* weights;  // or null
};

template <class G>
RK_DEV void update(const Flat<G>& a, const Rule& r, int64_t i, int64_t end) {
  const rk::Pack g = rk::load_pack(a.grad, i, end);
  rk::Pack p = rk::load_pack(a.param, i, end), m = rk::load_pack(a.m, i, end), v = rk::load_pack(a.v, i, end);
  for (int j = 0; j < rk::kPack; ++j) {
    const float grad = r.clip * g[j];
    m[j] = r.b1 * m[j] + r.new1 * grad;
    v[j] = r.b2 * v[j] + r.new2 * grad * grad;
    p[j] -= r.lr * (m[j] * r.correct1 / (sqrtf(v[j] * r.correct2) + r.eps) + r.decay * p[j]);
  }
  rk::store_pack(a.param, i, end, p);
  rk::store_pack(a.m, i, end, m);
  rk::store_pack(a.v, i, end, v);
  if (a.weights != nullptr) rk::store_pack(a.weights, i, end, p);
}

template <class G>
__global__ void adamw_kernel(Flat<G> a, const AdamwRule* rules, const AdamwTile* tiles,
                             const AdamwState* state, const double* lr, double beta1, double beta2,
                             double eps) {
  auto [shared] = rk::SharedLayout<Rule[1]>::carve();
  const AdamwTile tile = tiles[blockIdx.x];
  if (threadIdx.x == 0) shared[0] = rule_of(rules[tile.range], *state, *lr, beta1, beta2, eps);
  __syncthreads();
  const Rule rule = shared[0];
  if (rule.clip == 0) return;  // the gradient is not finite
  for (int64_t i = tile.begin + int64_t{threadIdx.x} * rk::kPack; i < tile.end; i += kThreads * rk::kPack)
    update(a, rule, i, tile.end);
}

// A block per tile. p = old - lr (direction + decay old), solved for old.
using SquaresShared = rk::SharedLayout<double[kThreads], Rule[1]>;
template <class G>
__global__ void tile_squares_kernel(Flat<G> a, const AdamwRule* rules, const AdamwTile* tiles,
                                    const AdamwState* state, const double* lr, double beta1, double beta2,
                                    double eps, double* sums) {
  auto [slots, shared] = SquaresShared::carve();
  const AdamwTile tile = tiles[blockIdx.x];
  if (threadIdx.x == 0) shared[0] = rule_of(rules[tile.range], *state, *lr, beta1, beta2, eps);
  __syncthreads();
  const Rule r = shared[0];
  const float kept = 1 / (1 - r.lr * r.decay);
  double param = 0, grad = 0, change = 0;
  for (int64_t i = tile.begin + int64_t{threadIdx.x} * rk::kPack; i < tile.end; i += kThreads * rk::kPack) {
    const rk::Pack p = rk::load_pack(a.param, i, tile.end), g = rk::load_pack(a.grad, i, tile.end);
    const rk::Pack m = rk::load_pack(a.m, i, tile.end), v = rk::load_pack(a.v, i, tile.end);
    for (int j = 0; j < rk::kPack; ++j) {
      const float direction = m[j] * r.correct1 / (sqrtf(v[j] * r.correct2) + r.eps);
      const float old = (p[j] + r.lr * direction) * kept;
      const float step = r.lr * (direction + r.decay * old);
      param += static_cast<double>(p[j]) * static_cast<double>(p[j]);
      grad += static_cast<double>(g[j]) * static_cast<double>(g[j]);
      change += static_cast<double>(step) * static_cast<double>(step);
    }
  }
  for (int which = 0; which < 3; ++which) {
    if (which > 0) __syncthreads();  // the slots are read
    const double sum = block_sum(which == 0 ? param : which == 1 ? grad : change, slots);
    if (threadIdx.x == 0) sums[3 * blockIdx.x + which] = sum;
  }
}

}  // namespace

void adamw_step(const AdamwStepArgs& a) {
  const Device& device = a.param.device();
  const int64_t n = a.grad.numel(), blocks = squares_blocks(n), tiles = a.table.tiles.dim(0);
  double* sums = a.scratch.data<double>();
  auto* state = reinterpret_cast<AdamwState*>(a.state.raw());
  dispatch_gpu_float(a.grad.dtype(), [&]<class G>() {
    const rk::Launch per_block{dim3(static_cast<unsigned>(blocks)), dim3(kThreads), SumSlots::kBytes};
    rk::launch(device, squares_kernel<G>, per_block, a.grad.data<G>(), n, sums);
    rk::launch(device, clip_kernel, {dim3(1), dim3(kThreads), SumSlots::kBytes}, sums, blocks,
               a.losses.defined() ? a.losses.data<float>() : nullptr,
               a.losses.defined() ? a.losses.numel() : int64_t{0}, a.grad_clip, state);
    const Flat<G> flat{a.param.data<float>(), a.m.data<float>(), a.v.data<float>(), a.grad.data<G>(),
                       a.weights.defined() ? a.weights.data<bf16>() : nullptr};
    if (tiles > 0)
      rk::launch(device, adamw_kernel<G>,
                 {dim3(static_cast<unsigned>(tiles)), dim3(kThreads), rk::SharedLayout<Rule[1]>::kBytes},
                 flat, reinterpret_cast<const AdamwRule*>(a.table.rules.raw()),
                 reinterpret_cast<const AdamwTile*>(a.table.tiles.raw()), state, a.lr.data<double>(), a.beta1,
                 a.beta2, a.eps);
  });
}

void adamw_squares(const AdamwSquaresArgs& a) {
  const int64_t tiles = a.table.tiles.dim(0);
  if (tiles == 0) return;
  dispatch_gpu_float(a.grad.dtype(), [&]<class G>() {
    const Flat<G> flat{a.param.data<float>(), a.m.data<float>(), a.v.data<float>(), a.grad.data<G>(),
                       nullptr};
    rk::launch(a.param.device(), tile_squares_kernel<G>,
               {dim3(static_cast<unsigned>(tiles)), dim3(kThreads), SquaresShared::kBytes}, flat,
               reinterpret_cast<const AdamwRule*>(a.table.rules.raw()),
               reinterpret_cast<const AdamwTile*>(a.table.tiles.raw()),
               reinterpret_cast<const AdamwState*>(a.state.raw()), a.lr.data<double>(), a.beta1, a.beta2,
               a.eps, a.sums.data<double>());
  });
}

}  // namespace rookery::RK_BACKEND
