// values.h: numbers of one floating-point type as those of another, rounded to the nearest (ties to even).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "trainer/checkpoint/foreign/tensor_file.h"

namespace rookery::foreign {

bool is_float(Type type);  // F64, F32, F16, BF16: what weights can be made of

// What was seen on the way.
struct ValueCounts {
  uint64_t not_finite = 0;  // NaN or infinity in the source
  uint64_t overflows = 0;   // finite in the source, beyond the largest finite number of the target
  void add(const ValueCounts& other) {
    not_finite += other.not_finite;
    overflows += other.overflows;
  }
};

// `from` and `to` hold the same number of elements. The same type is copied bit for bit. saturate: what
// overflows becomes the largest finite number, else infinity.
ValueCounts convert_values(Type from_type, std::span<const std::byte> from, Type to_type,
                           std::span<std::byte> to, bool saturate = false);

// All of tensor i of a file, converted; in blocks, so that beside `to` little memory is needed.
ValueCounts read_values(const TensorFile& file, size_t i, Type to_type, std::span<std::byte> to,
                        bool saturate = false);

// All tensors of a file, each into its own place. WTS-10 lists those that hold NaN or infinity.
void load_values(const TensorFile& file, Type to_type, std::span<const std::span<std::byte>> into);

// Equal for the same tensors under the same names (names, shapes, types and the first 4 KiB of each),
// whatever file they are in: 16 hex digits.
std::string fingerprint(const TensorFile& file);

}  // namespace rookery::foreign
