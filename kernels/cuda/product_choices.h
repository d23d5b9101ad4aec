// product_choices.h: which algorithm was the fastest for each matrix product, as text that is kept on disk
// for the next process on this kind of GPU. No call of CUDA, so every build can test it. Next: blas_lt.cpp.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace rookery::cuda {

// All that the choice depends on.
struct ProductKey {
  int64_t m, n, k, lda, ldb, ldc;
  int transposed_a, transposed_b, in, out, accumulate;
  int align_a, align_b, align_c;  // of the addresses, in bytes
  auto operator<=>(const ProductKey&) const = default;
};
// What cuBLASLt lets one keep of an algorithm, for the same version of itself.
using AlgorithmWords = std::array<uint64_t, 8>;
using ProductChoices = std::map<ProductKey, AlgorithmWords>;

// Of one kind of GPU and one version of the library: others have files of their own.
std::string choices_file_name(std::string gpu, size_t version);
// A line per product: "m n k lda ldb ldc ta tb in out accumulate align_a align_b align_c", the 8 words,
// CRC-32.
std::string choices_text(const ProductChoices& choices);
// What can be read of it; nothing of a text with another first line, and no line that was damaged.
ProductChoices choices_from(std::string_view text);

}  // namespace rookery::cuda
