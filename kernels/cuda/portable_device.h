// portable_device.h: the device side of portable.h. Each wrapper is one instruction or one intrinsic; the
// host side, kernels/emul/portable_host.h, has the same names.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/base/bf16.h"
#include "kernels/cuda/check.h"
#include "kernels/tensor/device.h"

#define RK_SIDE device_side
#define RK_DEV __device__ __forceinline__
#define RK_CONST __host__ __device__

namespace rookery::rk {
inline namespace RK_SIDE {

using ::rookery::bf16;

constexpr size_t kRedZoneBytes = 0;  // the emulator leaves room between arrays of shared memory
constexpr uint32_t kAllLanes = 0xffffffffu;

struct Launch {
  dim3 grid, block;
  size_t smem = 0;
};

// Starts kernel(arguments...) on the device's stream; nothing where the grid has no block.
template <class... P, class... A>
void launch(const Device& device, void (*kernel)(P...), const Launch& shape, A&&... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.smem;
  config.stream = static_cast<cudaStream_t>(device.native_stream());
  const auto* function = reinterpret_cast<const void*>(kernel);
  if (shape.smem > cuda::kSharedBytesOfAll) cuda::allow_shared_memory(function, config);
  if (const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
      error != cudaSuccess)
    cuda::launch_failed(function, config, error);
}

RK_DEV char* dyn_smem() {
  extern __shared__ __align__(1024) char rookery_shared_memory[];
  return rookery_shared_memory;
}
RK_DEV uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// --- warps ---
RK_DEV void syncwarp(uint32_t mask = kAllLanes) { __syncwarp(mask); }
template <class T>
RK_DEV T shfl(T value, int lane, int width = 32, uint32_t mask = kAllLanes) {
  return __shfl_sync(mask, value, lane, width);
}
template <class T>
RK_DEV T shfl_up(T value, int distance, int width = 32, uint32_t mask = kAllLanes) {
  return __shfl_up_sync(mask, value, distance, width);
}
template <class T>
RK_DEV T shfl_down(T value, int distance, int width = 32, uint32_t mask = kAllLanes) {
  return __shfl_down_sync(mask, value, distance, width);
}
template <class T>
RK_DEV T shfl_xor(T value, int lane_mask, int width = 32, uint32_t mask = kAllLanes) {
  return __shfl_xor_sync(mask, value, lane_mask, width);
}
RK_DEV uint32_t ballot(bool predicate, uint32_t mask = kAllLanes) { return __ballot_sync(mask, predicate); }
RK_DEV bool any(bool predicate, uint32_t mask = kAllLanes) { return __any_sync(mask, predicate) != 0; }
RK_DEV bool all(bool predicate, uint32_t mask = kAllLanes) { return __all_sync(mask, predicate) != 0; }
template <class T>  // int or unsigned
RK_DEV T reduce_add(T value, uint32_t mask = kAllLanes) {
  return __reduce_add_sync(mask, value);
}
template <class T>
RK_DEV T reduce_min(T value, uint32_t mask = kAllLanes) {
  return __reduce_min_sync(mask, value);
}
template <class T>
RK_DEV T reduce_max(T value, uint32_t mask = kAllLanes) {
  return __reduce_max_sync(mask, value);
}

// --- barriers of a part of the block ---
RK_DEV void named_barrier_sync(int id, int threads) {
  asm volatile("barrier.cta.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
RK_DEV void named_barrier_arrive(int id, int threads) {
  asm volatile("barrier.cta.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

struct mbarrier {
  uint64_t state;
};
RK_DEV void mbarrier_init(mbarrier* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
RK_DEV void mbarrier_arrive(mbarrier* barrier) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(shared_address(barrier))
               : "memory");
}
// Until the phase of this parity is over: with 1 on a new barrier it returns at once.
RK_DEV void mbarrier_wait(mbarrier* barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0) {
#if __CUDA_ARCH__ >= 900
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
#else
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
#endif
  }
}

// --- copies from global to shared memory that run on beside the thread ---
// 16 bytes, both addresses aligned to that; zeros where `valid` is false (`from` must still be an address).
RK_DEV void cp_async16(void* to, const void* from, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
RK_DEV void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most n of the thread's committed groups are under way.
template <int n>
RK_DEV void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}
// One arrival, once all copies that this thread has issued are done.
RK_DEV void cp_async_mbarrier_arrive(mbarrier* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// --- matrices of a warp: fragments as in docs/emulation.md ---
// Lane l gives the address of row l % 8 of matrix l / 8 (8 x 8 values of 16 bits): 16 bytes, aligned.
RK_DEV void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
RK_DEV void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
RK_DEV void ldmatrix_x2(uint32_t (&r)[2], const void* row) {  // addresses of lanes 0 to 15
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
RK_DEV void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
// The way back; one instruction from sm_90 on, plain stores before.
template <bool kTransposed>
RK_DEV void stmatrix_x4_any(void* row, const uint32_t (&r)[4]) {
#if __CUDA_ARCH__ >= 900
  if constexpr (kTransposed) {
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
        "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
        : "memory");
  } else {
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
        "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
        : "memory");
  }
#else
  const int lane =
      static_cast<int>((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32);
  const int g = lane / 4, q = lane % 4;
  const unsigned long long own = reinterpret_cast<unsigned long long>(row);
  for (int m = 0; m < 4; ++m) {
    for (int half = 0; half < 2; ++half) {
      const int i = kTransposed ? 2 * q + half : g, j = kTransposed ? g : 2 * q + half;
      auto* to = reinterpret_cast<uint16_t*>(__shfl_sync(kAllLanes, own, 8 * m + i));
      to[j] = static_cast<uint16_t>(r[m] >> (16 * half));
    }
  }
#endif
}
RK_DEV void stmatrix_x4(void* row, const uint32_t (&r)[4]) { stmatrix_x4_any<false>(row, r); }
RK_DEV void stmatrix_x4_trans(void* row, const uint32_t (&r)[4]) { stmatrix_x4_any<true>(row, r); }

// d = a b + c: [16, 16] x [16, 8] in bf16, sums in f32.
RK_DEV void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                           const float (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
        "f"(c[3]));
}
// d = a b + c: [16, 8] x [8, 8] in tf32 (to_tf32), sums in f32.
RK_DEV void mma_tf32_1688(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                          const float (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
        "f"(c[3]));
}
RK_DEV uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

// --- 16 bytes at once (load16 and store16 of portable.h) ---
RK_DEV void load16_bytes(void* to, const void* from) {
  const uint4 words = *static_cast<const uint4*>(from);
  __builtin_memcpy(to, &words, 16);
}
RK_DEV void store16_bytes(void* to, const void* from) {
  uint4 words;
  __builtin_memcpy(&words, from, 16);
  *static_cast<uint4*>(to) = words;
}

template <class T>
RK_DEV T atomic_add(T* to, T value) {
  return atomicAdd(to, value);
}

// --- approximations: the error of each is that of the instruction, about 2 units in the last place ---
RK_DEV float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
RK_DEV float fast_exp(float x) { return __expf(x); }
RK_DEV float fast_div(float x, float y) { return __fdividef(x, y); }
RK_DEV float fast_rsqrt(float x) { return rsqrtf(x); }

}  // namespace RK_SIDE
}  // namespace rookery::rk
