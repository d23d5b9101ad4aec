// elementwise_cuda.cu: one pass over memory, a pack of eight elements per thread.
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/pack.h"

namespace rookery::RK_BACKEND {
namespace {

template <class From, class To>
__global__ void convert_kernel(const From* from, To* to, int64_t n) {
  const int64_t i = rk::first_of_pack();
  if (i < n) rk::store_pack(to, i, n, rk::load_pack(from, i, n));
}

template <class A, class B>
__global__ void sum_kernel(const A* a, const B* b, A* out, int64_t n) {
  const int64_t i = rk::first_of_pack();
  if (i >= n) return;
  rk::Pack sum = rk::load_pack(a, i, n);
  const rk::Pack other = rk::load_pack(b, i, n);
#pragma unroll
  for (int j = 0; j < rk::kPack; ++j) sum[j] += other[j];
  rk::store_pack(out, i, n, sum);
}

}  // namespace

void convert(const ConvertArgs& args) {
  const int64_t n = args.from.numel();
  if (n == 0) return;
  dispatch_gpu_float(args.from.dtype(), [&]<class From>() {
    dispatch_gpu_float(args.to.dtype(), [&]<class To>() {
      rk::launch(args.to.device(), convert_kernel<From, To>, rk::pack_launch(n), args.from.data<From>(),
                 args.to.data<To>(), n);
    });
  });
}

void sum(const SumArgs& args) {
  const int64_t n = args.out.numel();
  if (n == 0) return;
  dispatch_gpu_float(args.a.dtype(), [&]<class A>() {
    dispatch_gpu_float(args.b.dtype(), [&]<class B>() {
      rk::launch(args.out.device(), sum_kernel<A, B>, rk::pack_launch(n), args.a.data<A>(), args.b.data<B>(),
                 args.out.data<A>(), n);
    });
  });
}

}  // namespace rookery::RK_BACKEND
