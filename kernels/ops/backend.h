// backend.h: how a kernel finds its body. Every *_cpu.cpp is built once per instruction set with another
// namespace (RK_BACKEND), and a table picks the body by the device. A missing body is a link error.
#pragma once

#include "kernels/tensor/device.h"

#if defined(__x86_64__)
#define RK_BACKENDS(declaration) \
  namespace cpu_portable {       \
  declaration;                   \
  }                              \
  namespace cpu_avx2 {           \
  declaration;                   \
  }                              \
  namespace cpu_avx512 {         \
  declaration;                   \
  }
#define RK_KERNEL(name)                                                                          \
  ::rookery::Kernel {                                                                            \
    { &::rookery::cpu_portable::name, &::rookery::cpu_avx2::name, &::rookery::cpu_avx512::name } \
  }
#else
#define RK_BACKENDS(declaration) \
  namespace cpu_portable {       \
  declaration;                   \
  }
#define RK_KERNEL(name)                                                                                \
  ::rookery::Kernel {                                                                                  \
    { &::rookery::cpu_portable::name, &::rookery::cpu_portable::name, &::rookery::cpu_portable::name } \
  }
#endif

namespace rookery {

// The bodies of one kernel, in the order of CpuIsa. `Args` is a plain struct of tensors and numbers.
template <class Args>
struct Kernel {
  void (*body[3])(const Args&);
  void operator()(const Device& device, const Args& args) const {
    if (device.type() == DeviceType::kMeta) return;
    body[static_cast<int>(device.isa())](args);
  }
};
template <class Args>
Kernel(std::initializer_list<void (*)(const Args&)>) -> Kernel<Args>;

}  // namespace rookery
