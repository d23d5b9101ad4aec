// portable.h: all that a kernel source includes of CUDA. nvcc sees portable_device.h, thin wrappers of PTX;
// the host compiler sees kernels/emul/portable_host.h, the emulator. How to write a kernel:
// docs/emulation.md.
//
// Both give the plain words (__global__, threadIdx, __syncthreads, float4, ...) and, in rookery::rk,
//   RK_DEV                                             of a function that kernels call
//   Launch{grid, block, smem}, launch(device, kernel, Launch, arguments...)
//   dyn_smem()                                         the block's shared memory (SharedLayout below carves
//   it) syncwarp, shfl, shfl_up, shfl_down, shfl_xor, ballot, any, all, reduce_add, reduce_min, reduce_max
//   named_barrier_sync, named_barrier_arrive           barriers 1 to 15 of a multiple of 32 threads
//   mbarrier, mbarrier_init, mbarrier_arrive, mbarrier_wait, cp_async_mbarrier_arrive
//   cp_async16, cp_async_commit, cp_async_wait<n>      copies from global to shared memory behind the
//   thread's back ldmatrix_x4, ldmatrix_x4_trans, ldmatrix_x2, ldmatrix_x2_trans, stmatrix_x4,
//   stmatrix_x4_trans mma_bf16_16816, mma_tf32_1688                      fragments by spec: docs/emulation.md
//   load16, store16                                    16 bytes at once, aligned
//   atomic_add, fast_exp2, fast_exp, fast_div, fast_rsqrt
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

#include "kernels/base/bf16.h"

#ifdef __CUDACC__
#include "kernels/cuda/portable_device.h"
#else
#include "kernels/emul/portable_host.h"
#endif

// The two sides are different functions: the linker must never take one for the other.
namespace rookery::rk {
inline namespace RK_SIDE {

// The shared memory of a kernel as one list, T[N] or T[N][M] each, for its launcher and the kernel itself:
//   template <int N> using Shared = rk::SharedLayout<float[N], bf16[N][N + 8]>;
//   auto [sum, tile] = Shared<N>::carve();     float* and bf16 (*)[N + 8], aligned to 16 bytes
//   rk::launch(device, kernel<N>, {grid, block, Shared<N>::kBytes}, ...);
template <class... Arrays>
class SharedLayout {
 public:
  RK_CONST static constexpr size_t offset(size_t i) {
    constexpr size_t kSizes[] = {sizeof(Arrays)...};
    size_t at = 0;
    for (size_t j = 0; j < i; ++j) at = (at + kSizes[j] + kRedZoneBytes + 15) / 16 * 16;
    return at;
  }
  static constexpr size_t kBytes = offset(sizeof...(Arrays));

#ifdef __CUDACC__
  RK_DEV static SharedLayout carve() { return SharedLayout(dyn_smem()); }
#else
  static SharedLayout carve(Site site = Here::current()) {
    static constexpr auto kOffsets = []<size_t... I>(std::index_sequence<I...>) {
      return std::array<size_t, sizeof...(Arrays)>{offset(I)...};
    }
    (std::index_sequence_for<Arrays...>());
    static constexpr std::array<size_t, sizeof...(Arrays)> kSizes{sizeof(Arrays)...};
    return SharedLayout(emulator::carve_arrays(kOffsets.data(), kSizes.data(), sizeof...(Arrays), site));
  }
#endif
  // For auto [a, b] = carve().
  template <size_t I>
  RK_DEV auto get() const {
    constexpr size_t kOffset = offset(I);
    return reinterpret_cast<std::remove_extent_t<std::tuple_element_t<I, std::tuple<Arrays...>>>*>(base_ +
                                                                                                   kOffset);
  }

 private:
  RK_DEV explicit SharedLayout(char* base) : base_(base) {}
  char* base_;
};

// 16 bytes of T's, aligned, moved at once.
template <class T>
struct alignas(16) Vec16 {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
  RK_DEV T& operator[](int i) { return values[i]; }
  RK_DEV const T& operator[](int i) const { return values[i]; }
};
template <class T>
RK_DEV Vec16<T> load16(const T* from) {
  Vec16<T> out;
  load16_bytes(&out, from);
  return out;
}
template <class T>
RK_DEV void store16(T* to, const Vec16<T>& value) {
  store16_bytes(to, &value);
}

// Two values of a fragment: `low` is the lower column or k.
RK_DEV uint32_t pack_bf16(float low, float high) {
  return bf16_bits(low) | static_cast<uint32_t>(bf16_bits(high)) << 16;
}

// The sum and the greatest of the values of a warp's 32 lanes, in each of them; always added in the same
// order.
RK_DEV float warp_sum(float x) {
  for (int distance = 16; distance > 0; distance /= 2) x += shfl_xor(x, distance);
  return x;
}
RK_DEV float warp_max(float x) {
  for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, shfl_xor(x, distance));
  return x;
}

}  // namespace RK_SIDE
}  // namespace rookery::rk

template <class... Arrays>
struct std::tuple_size<rookery::rk::SharedLayout<Arrays...>>
    : std::integral_constant<std::size_t, sizeof...(Arrays)> {};
template <std::size_t I, class... Arrays>
struct std::tuple_element<I, rookery::rk::SharedLayout<Arrays...>> {
  using type = std::remove_extent_t<std::tuple_element_t<I, std::tuple<Arrays...>>>*;
};
