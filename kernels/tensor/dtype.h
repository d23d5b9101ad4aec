// dtype.h: element types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/base/bf16.h"
#include "kernels/base/error.h"

namespace rookery {

enum class DType : uint8_t { kF64, kF32, kBF16, kI64, kI32, kU8 };

constexpr size_t dtype_size(DType t) {
  switch (t) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
      return 2;
    case DType::kU8:
      return 1;
  }
  return 0;
}
inline std::string to_string(DType t) {
  switch (t) {
    case DType::kF64:
      return "f64";
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kI64:
      return "i64";
    case DType::kI32:
      return "i32";
    case DType::kU8:
      return "u8";
  }
  return "?";
}
constexpr bool is_float(DType t) { return t == DType::kF64 || t == DType::kF32 || t == DType::kBF16; }

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kI64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kU8;
};

// Throws: `found` is not among the types that a body computes in.
[[noreturn]] void refuse_dtype(DType found, const char* expected);

// For bodies of the CPU: dispatch_float(dtype, [&]<class T>() { ... }) with T = double or float.
template <class F>
inline __attribute__((always_inline)) void dispatch_float(DType dtype, F&& body) {
  if (dtype == DType::kF32) {
    body.template operator()<float>();
  } else if (dtype == DType::kF64) {
    body.template operator()<double>();
  } else {
    refuse_dtype(dtype, "f32 or f64");
  }
}

// For bodies of the GPU: the same with T = float or bf16.
template <class F>
inline __attribute__((always_inline)) void dispatch_gpu_float(DType dtype, F&& body) {
  if (dtype == DType::kF32) {
    body.template operator()<float>();
  } else if (dtype == DType::kBF16) {
    body.template operator()<bf16>();
  } else {
    refuse_dtype(dtype, "f32 or bf16");
  }
}

}  // namespace rookery
