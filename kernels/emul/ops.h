// ops.h: what portable_host.h asks of the emulator. These functions are compiled without the race detector's
// hooks (hooks.cpp) and tell it themselves what they touch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/emul/words.h"

namespace rookery::emulator {

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes;
};
// body(arguments) for each thread of the grid; `kernel` is the address of its code.
void run_grid(const LaunchShape& shape, const void* kernel, void (*body)(void*), void* arguments);

// Shared memory (machine.h); both return its begin.
char* shared_memory(Site site);
char* carve_arrays(const size_t* offsets, const size_t* bytes, size_t count, Site site);

// Warps (warp.cpp).
enum class ShuffleKind : uint8_t { kLane, kUp, kDown, kXor };
enum class ReduceKind : uint8_t { kAdd, kMin, kMax };
void syncwarp(uint32_t mask, Site site);
// `argument`: the source lane, the distance, or the mask of kXor; within segments of `width` lanes.
uint64_t shuffle(ShuffleKind kind, uint64_t value, int argument, int width, uint32_t mask, Site site);
uint32_t ballot(bool predicate, uint32_t mask, Site site);
int64_t reduce(ReduceKind kind, int64_t value, uint32_t mask, Site site);

// Matrices of a warp (matrix.cpp).
void load_matrix(uint32_t* registers, const void* row, int matrices, bool transposed, Site site);
void store_matrix(void* row, const uint32_t* registers, int matrices, bool transposed, Site site);
void mma_bf16(float* d, const uint32_t* a, const uint32_t* b, const float* c, Site site);
void mma_tf32(float* d, const uint32_t* a, const uint32_t* b, const float* c, Site site);

// Barriers of a part of the block, copies that run on beside the thread (async.cpp).
void named_barrier(int id, int threads, bool waits, Site site);
void mbarrier_init(void* barrier, uint32_t arrivals, Site site);
void mbarrier_arrive(void* barrier, Site site);
void mbarrier_wait(void* barrier, uint32_t parity, Site site);
void cp_async16(void* to, const void* from, bool valid, Site site);
void cp_async_commit(Site site);
void cp_async_wait(int groups_left, Site site);
void cp_async_mbarrier_arrive(void* barrier, Site site);

// Memory (memory.cpp).
void load16(void* to, const void* from, Site site);
void store16(void* to, const void* from, Site site);
float atomic_add(float* to, float value);
int atomic_add(int* to, int value);
unsigned atomic_add(unsigned* to, unsigned value);

}  // namespace rookery::emulator
