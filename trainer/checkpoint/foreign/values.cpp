#include "trainer/checkpoint/foreign/values.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/io.h"

namespace rookery::foreign {
namespace {

constexpr uint64_t kBlockBytes = 4u << 20;

// The 16-bit types as their bits.
struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

float widen(Bfloat v) { return std::bit_cast<float>(uint32_t(v.bits) << 16); }
float widen(Half v) {
  const uint32_t sign = uint32_t(v.bits & 0x8000) << 16, rest = v.bits & 0x7fff;
  // Shifted into place the exponent is 112 too small; a product with 2^112 mends it, subnormals included.
  if (rest < 0x7c00) {
    const float scaled = std::bit_cast<float>(rest << 13) * std::bit_cast<float>(uint32_t{239} << 23);
    return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | sign);
  }
  return std::bit_cast<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
}
float widen(float v) { return v; }
double widen(double v) { return v; }

// The bits of a number with `Fraction` bits of fraction, exponents up to 2^Exponent, from one with more.
// Works on the bits of a double: exact for float, too.
template <int Fraction, int Exponent>
uint16_t narrow(double value) {
  const auto bits = std::bit_cast<uint64_t>(value);
  const auto sign = uint16_t(bits >> 63 << 15);
  constexpr uint16_t kInfinity = uint16_t(0x7fff >> Fraction << Fraction);
  if (std::isnan(value)) return uint16_t(sign | kInfinity | (1 << (Fraction - 1)));
  const double magnitude = std::fabs(value);
  if (std::isinf(value)) return uint16_t(sign | kInfinity);
  constexpr int kLeast = 2 - Exponent;  // exponent of the smallest normal number, as of frexp minus one
  const int exponent = std::max(magnitude > 0 ? std::ilogb(magnitude) : kLeast, kLeast);
  // A whole number of units of the last place; nearbyint rounds ties to even.
  const double units = std::nearbyint(std::ldexp(magnitude, Fraction - exponent));
  const auto whole = uint64_t(units) + (uint64_t(exponent - kLeast) << Fraction);
  return uint16_t(sign | uint16_t(std::min<uint64_t>(whole, kInfinity)));
}

void narrow_to(Half& to, double v) { to.bits = narrow<10, 16>(v); }
void narrow_to(Bfloat& to, double v) { to.bits = narrow<7, 128>(v); }
void narrow_to(Bfloat& to, float v) {
  const auto bits = std::bit_cast<uint32_t>(v);
  to.bits = std::isnan(v) ? uint16_t(bits >> 16 | 0x40) : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
void narrow_to(float& to, float v) { to = v; }
void narrow_to(float& to, double v) { to = float(v); }
void narrow_to(double& to, double v) { to = v; }

template <class T>
constexpr double kLargest = std::numeric_limits<T>::max();
template <>
constexpr double kLargest<Half> = 65504;
template <>
constexpr double kLargest<Bfloat> = 0x1.fep127;

template <class T>
bool is_finite(T v) {
  return std::isfinite(widen(v));
}

// Element by element through memcpy: neither side need be aligned.
template <class From, class To>
ValueCounts convert(std::span<const std::byte> from, std::span<std::byte> to, bool saturate) {
  const size_t n = from.size() / sizeof(From);
  ValueCounts counts;
  for (size_t i = 0; i < n; ++i) {
    From value;
    To result;
    std::memcpy(&value, from.data() + i * sizeof(From), sizeof(From));
    const auto wide = widen(value);
    narrow_to(result, wide);
    if constexpr (sizeof(To) < sizeof(From) || sizeof(To) == 2) {
      if (std::isfinite(wide) && !is_finite(result)) {
        ++counts.overflows;
        if (saturate) narrow_to(result, std::copysign(kLargest<To>, double(wide)));
      }
    }
    counts.not_finite += !std::isfinite(wide);
    std::memcpy(to.data() + i * sizeof(To), &result, sizeof(To));
  }
  return counts;
}

template <class T>
ValueCounts look_at(std::span<const std::byte> values) {
  ValueCounts counts;
  for (size_t i = 0; i < values.size() / sizeof(T); ++i) {
    T value;
    std::memcpy(&value, values.data() + i * sizeof(T), sizeof(T));
    counts.not_finite += !is_finite(value);
  }
  return counts;
}

template <class F>
void with_type(Type type, F&& body) {
  switch (type) {
    case Type::kF64:
      return body(double{});
    case Type::kF32:
      return body(float{});
    case Type::kF16:
      return body(Half{});
    case Type::kBf16:
      return body(Bfloat{});
    default:
      RK_CHECK(false, "[convert_values] ", to_string(type), " is no floating-point type");
  }
}

}  // namespace

bool is_float(Type type) {
  return type == Type::kF64 || type == Type::kF32 || type == Type::kF16 || type == Type::kBf16;
}

ValueCounts convert_values(Type from_type, std::span<const std::byte> from, Type to_type,
                           std::span<std::byte> to, bool saturate) {
  RK_CHECK(from.size() / size_of(from_type) == to.size() / size_of(to_type), "[convert_values] ", from.size(),
           " bytes of ", to_string(from_type), " into ", to.size(), " of ", to_string(to_type));
  ValueCounts counts;
  with_type(from_type, [&]<class From>(From) {
    if (from_type == to_type) {
      if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
      counts = look_at<From>(from);
      return;
    }
    with_type(to_type, [&]<class To>(To) {
      if constexpr (!std::is_same_v<From, To>) counts = convert<From, To>(from, to, saturate);
    });
  });
  return counts;
}

ValueCounts read_values(const TensorFile& file, size_t i, Type to_type, std::span<std::byte> to,
                        bool saturate) {
  const TensorInfo& t = file.tensors()[i];
  RK_CHECK(to.size() == t.bytes() / size_of(t.type) * size_of(to_type), "[read_values] ", t.name, " ",
           to_string(t.shape), " into ", to.size(), " bytes");
  if (t.type == to_type) {  // at once and in place
    file.read(i, 0, to);
    ValueCounts counts;
    with_type(t.type, [&]<class T>(T) { counts = look_at<T>(to); });
    return counts;
  }
  const uint64_t size = size_of(t.type), wanted = size_of(to_type);
  std::vector<std::byte> buffer(std::min(kBlockBytes, t.bytes()));
  ValueCounts counts;
  for (uint64_t done = 0; done < t.bytes();) {
    const auto block = std::span(buffer).first(std::min(kBlockBytes, t.bytes() - done));
    file.read(i, done, block);
    counts.add(convert_values(t.type, block, to_type,
                              to.subspan(done / size * wanted, block.size() / size * wanted), saturate));
    done += block.size();
  }
  return counts;
}

void load_values(const TensorFile& file, Type to_type, std::span<const std::span<std::byte>> into) {
  RK_CHECK(into.size() == file.tensors().size(), "[load_values] ", into.size(), " places for ",
           file.tensors().size(), " tensors");
  std::string names;
  size_t count = 0;
  for (size_t i = 0; i < into.size(); ++i) {
    if (read_values(file, i, to_type, into[i]).not_finite == 0) continue;
    if (++count <= 20) names += str(count > 1 ? ", " : "", file.tensors()[i].name);
  }
  if (count > 0)
    fail(ExitCode::kData, "WTS-10", file.path(), ": ", count, " tensors hold NaN or infinity: ", names,
         count > 20 ? ", ..." : "", "; mend it by another file");
}

std::string fingerprint(const TensorFile& file) {
  constexpr uint64_t kSampleBytes = 4096;
  std::string text;
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const TensorInfo& t = file.tensors()[i];
    std::string sample(std::min(kSampleBytes, t.bytes()), '\0');
    file.read(i, 0, std::as_writable_bytes(std::span(sample)));
    text += str(t.name, " ", to_string(t.type), " ", to_string(t.shape), " ", io::sha256(sample), "\n");
  }
  return io::sha256(text).substr(0, 16);
}

}  // namespace rookery::foreign
