// backend.h: how a kernel finds its body. Every *_cpu.cpp is built once per instruction set with another
// namespace (RK_BACKEND), and *_cuda.cu once by nvcc and once as C++ (kernels/emul); a table picks the body
// by the device. A missing body is a link error; a backend that this build leaves out is null.
#pragma once

#include <initializer_list>

#include "kernels/tensor/device.h"
#include "kernels/tensor/dtype.h"

#if defined(__x86_64__)
#define RK_CPU_BACKENDS(declaration) \
  namespace cpu_portable {           \
  declaration;                       \
  }                                  \
  namespace cpu_avx2 {               \
  declaration;                       \
  }                                  \
  namespace cpu_avx512 {             \
  declaration;                       \
  }
#define RK_CPU_BODIES(name) \
  &::rookery::cpu_portable::name, &::rookery::cpu_avx2::name, &::rookery::cpu_avx512::name
#else
#define RK_CPU_BACKENDS(declaration) \
  namespace cpu_portable {           \
  declaration;                       \
  }
#define RK_CPU_BODIES(name) \
  &::rookery::cpu_portable::name, &::rookery::cpu_portable::name, &::rookery::cpu_portable::name
#endif

#define RK_NO_BODY(name) static_cast<decltype(&::rookery::cpu_portable::name)>(nullptr)
#ifdef ROOKERY_HAVE_EMUL
#define RK_EMUL_BODY(name) &::rookery::emul::name
#else
#define RK_EMUL_BODY(name) RK_NO_BODY(name)
#endif
#ifdef ROOKERY_HAVE_CUDA
#define RK_CUDA_BODY(name) &::rookery::cuda::name
#else
#define RK_CUDA_BODY(name) RK_NO_BODY(name)
#endif

// Kernels for the CPU alone.
#define RK_BACKENDS(declaration) RK_CPU_BACKENDS(declaration)
#define RK_KERNEL(name)                                                \
  ::rookery::Kernel {                                                  \
#name, { RK_CPU_BODIES(name), RK_NO_BODY(name), RK_NO_BODY(name) } \
  }

// Kernels that have a *_cuda.cu too.
#define RK_BACKENDS_GPU(declaration) \
  RK_CPU_BACKENDS(declaration)       \
  namespace emul {                   \
  declaration;                       \
  }                                  \
  namespace cuda {                   \
  declaration;                       \
  }
#define RK_KERNEL_GPU(name)                                                \
  ::rookery::Kernel {                                                      \
#name, { RK_CPU_BODIES(name), RK_EMUL_BODY(name), RK_CUDA_BODY(name) } \
  }

namespace rookery {

// The error ID of an operation that has no kernel for the device it was called on.
inline constexpr const char* kNoKernel = "DEV-01";
[[noreturn]] void refuse_device(const char* operation, const Device& device);

// For operations whose loops run on the host alone: throws on any other device.
void check_cpu(const char* operation, const Device& device);

// Statistics, losses and sums over rows of an operation on bf16 are f32.
constexpr DType sum_dtype(DType dtype) { return dtype == DType::kBF16 ? DType::kF32 : dtype; }

// Into how many parts sums over `rows` are cut: on the CPU one per thread, on a GPU by the rows alone.
int64_t sum_parts(Device& device, int64_t rows);

// The bodies of one kernel: those of the CPU in the order of CpuIsa, emul, cuda. `Args` is a plain struct of
// tensors and numbers.
template <class Args>
struct Kernel {
  const char* name;
  void (*body[5])(const Args&);

  // Does nothing on kMeta, but throws as the device it plans for would; a GPU can be planned for without
  // CUDA, where the same kernel is there for kEmul.
  void operator()(const Device& device, const Args& args) const {
    const DeviceType target = device.target();
    const auto run = body[target == DeviceType::kEmul   ? 3
                          : target == DeviceType::kCuda ? 4
                                                        : static_cast<int>(device.isa())];
    const bool only_planned = device.type() == DeviceType::kMeta;
    if (run == nullptr && !(only_planned && target == DeviceType::kCuda && body[3] != nullptr))
      refuse_device(name, device);
    if (only_planned) return;
    const Range range(device, name);
    run(args);
  }
};
template <class Args>
Kernel(const char*, std::initializer_list<void (*)(const Args&)>) -> Kernel<Args>;

}  // namespace rookery
