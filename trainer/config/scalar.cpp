// scalar.cpp: a decimal number is digits times a power of ten (times a suffix), kept exact in 128 bits for
// integers.
#include "trainer/config/scalar.h"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <span>
#include <system_error>

#include "kernels/base/str.h"

namespace rookery::config {

namespace {

struct Suffix {
  std::string_view text;
  int ten, two;  // the factor is 10^ten * 2^two
};
constexpr std::array kCountSuffixes = {
    Suffix{"k", 3, 0},  Suffix{"K", 3, 0},   Suffix{"M", 6, 0},   Suffix{"B", 9, 0},   Suffix{"G", 9, 0},
    Suffix{"T", 12, 0}, Suffix{"Ki", 0, 10}, Suffix{"Mi", 0, 20}, Suffix{"Gi", 0, 30}, Suffix{"Ti", 0, 40}};
constexpr std::array kByteSuffixes = {Suffix{"B", 0, 0},    Suffix{"kB", 3, 0},   Suffix{"KB", 3, 0},
                                      Suffix{"MB", 6, 0},   Suffix{"GB", 9, 0},   Suffix{"TB", 12, 0},
                                      Suffix{"KiB", 0, 10}, Suffix{"MiB", 0, 20}, Suffix{"GiB", 0, 30},
                                      Suffix{"TiB", 0, 40}};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string expected_integer(Unit unit) {
  switch (unit) {
    case Unit::kPlain:
      return "expected an integer such as 2048, 1e6, 300M, 1.5B or 2Ti";
    case Unit::kBytes:
      return "expected a size such as 4096, 64MiB or 5GB";
    case Unit::kSeconds:
      return "expected a whole number of seconds such as 90, 30m or 2h";
    case Unit::kMinutes:
      return "expected a whole number of minutes such as 30, 30m or 2h";
  }
  return "";
}

// A decimal number without sign at the start of `text`: digits as an integer, and the power of ten they stand
// for.
struct Decimal {
  unsigned __int128 digits = 0;
  int ten = 0;
  size_t length = 0;  // characters taken; 0: not a number
};

Decimal take_decimal(std::string_view text) {
  constexpr int kMostDigits = 36;  // fits 128 bits
  Decimal d;
  size_t i = 0;
  int count = 0, seen = 0;
  bool point = false;
  for (; i < text.size(); ++i) {
    if (text[i] == '.' && !point) {
      point = true;
    } else if (text[i] == '_' && i > 0 && is_digit(text[i - 1]) && i + 1 < text.size() &&
               is_digit(text[i + 1])) {
      continue;
    } else if (is_digit(text[i])) {
      ++seen;
      if (d.digits > 0 && ++count >= kMostDigits) return {};
      d.digits = d.digits * 10 + unsigned(text[i] - '0');
      if (point) --d.ten;
    } else {
      break;
    }
  }
  if (seen == 0) return {};
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    size_t j = i + 1;
    if (j < text.size() && text[j] == '+') ++j;
    int exponent = 0;
    auto [end, ec] = std::from_chars(text.data() + j, text.data() + text.size(), exponent);
    if (ec != std::errc() || exponent > 10000 || exponent < -10000) return {};
    d.ten += exponent;
    i = size_t(end - text.data());
  }
  d.length = i;
  return d;
}

// digits * 10^ten * 2^two if that is a whole number of at most 63 bits.
std::optional<int64_t> exact(Decimal d, int two) {
  constexpr unsigned __int128 kMost = std::numeric_limits<int64_t>::max();
  if (d.digits == 0) return 0;
  for (; d.ten < 0 && d.digits % 10 == 0; ++d.ten) d.digits /= 10;
  for (; two > 0 && d.digits <= kMost; --two) d.digits *= 2;
  for (; d.ten < 0 && d.digits % 10 == 0; ++d.ten) d.digits /= 10;
  if (d.ten < 0) return std::nullopt;
  for (; d.ten > 0 && d.digits <= kMost; --d.ten) d.digits *= 10;
  if (two > 0 || d.digits > kMost) return std::nullopt;
  return int64_t(d.digits);
}

std::optional<int64_t> with_suffix(std::string_view text, std::span<const Suffix> suffixes) {
  Decimal d = take_decimal(text);
  if (d.length == 0) return std::nullopt;
  std::string_view rest = text.substr(d.length);
  if (rest.empty()) return exact(d, 0);
  for (const Suffix& s : suffixes) {
    if (rest != s.text) continue;
    d.ten += s.ten;
    return exact(d, s.two);
  }
  return std::nullopt;
}

// "1h30m" in seconds; a bare number is in units of `bare` seconds. Units go from large to small, each once.
std::optional<double> duration(std::string_view text, double bare) {
  constexpr std::string_view kNames = "dhms";
  constexpr double kSeconds[] = {86400, 3600, 60, 1};
  if (text.empty()) return std::nullopt;
  double total = 0;
  size_t least_unit = 0;
  for (bool first = true; !text.empty(); first = false) {
    double value = 0;
    auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (ec != std::errc() || !std::isfinite(value) || value < 0) return std::nullopt;
    text.remove_prefix(size_t(end - text.data()));
    if (text.empty() && first) return value * bare;
    size_t unit = text.empty() ? std::string_view::npos : kNames.find(text[0]);
    if (unit == std::string_view::npos || unit < least_unit) return std::nullopt;
    least_unit = unit + 1;
    total += value * kSeconds[unit];
    text.remove_prefix(1);
  }
  return total;
}

std::optional<int64_t> whole(double value) {
  if (value != std::floor(value) || value > 9e15) return std::nullopt;
  return int64_t(value);
}

}  // namespace

std::optional<int64_t> parse_integer(std::string_view text, Unit unit, std::string& why) {
  std::string_view digits = text;
  const bool negative = !digits.empty() && digits[0] == '-';
  if (negative || (!digits.empty() && digits[0] == '+')) digits.remove_prefix(1);
  std::optional<int64_t> value;
  if (negative && unit != Unit::kPlain) {
    // There is no size or duration below zero.
  } else if (digits.starts_with("0x") || digits.starts_with("0X")) {
    int64_t hex = 0;
    auto [end, ec] = std::from_chars(digits.data() + 2, digits.data() + digits.size(), hex, 16);
    if (ec == std::errc() && end == digits.data() + digits.size() && digits[2] != '-') value = hex;
  } else if (unit == Unit::kSeconds || unit == Unit::kMinutes) {
    double scale = unit == Unit::kMinutes ? 60 : 1;
    if (auto seconds = duration(digits, scale)) value = whole(*seconds / scale);
  } else if (unit == Unit::kBytes) {
    value = with_suffix(digits, kByteSuffixes);
  } else {
    value = with_suffix(digits, kCountSuffixes);
  }
  if (!value) {
    why = expected_integer(unit);
    return std::nullopt;
  }
  return negative ? -*value : *value;
}

std::optional<double> parse_number(std::string_view text, Unit unit, std::string& why) {
  if (unit == Unit::kSeconds || unit == Unit::kMinutes) {
    double scale = unit == Unit::kMinutes ? 60 : 1;
    if (auto seconds = duration(text, scale)) return *seconds / scale;
    why = unit == Unit::kMinutes ? "expected minutes such as 30, 1.5, 30m or 2h"
                                 : "expected seconds such as 90, 1.5, 30m or 2h";
    return std::nullopt;
  }
  if (unit == Unit::kBytes) {
    if (auto bytes = parse_integer(text, unit, why)) return double(*bytes);
    return std::nullopt;
  }
  std::string plain;  // without the underscores that group digits
  for (size_t i = 0; i < text.size(); ++i) {
    bool groups =
        text[i] == '_' && i > 0 && is_digit(text[i - 1]) && i + 1 < text.size() && is_digit(text[i + 1]);
    if (!groups) plain += text[i];
  }
  std::string_view digits = plain;
  if (digits.starts_with('+')) digits.remove_prefix(1);
  why = "expected a number such as 0.1 or 6e-4";
  // from_chars would read "inf" and "nan" too; a number starts with a digit, a point, or a minus and one of
  // these.
  size_t start = digits.starts_with('-') ? 1 : 0;
  if (start >= digits.size() || !(is_digit(digits[start]) || digits[start] == '.')) return std::nullopt;
  double value = 0;
  auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (end != digits.data() + digits.size()) return std::nullopt;
  if (ec == std::errc::result_out_of_range) {
    // Out of range is told for what is too large and for what is too small alike: the exponent's sign tells
    // them apart.
    Decimal d = take_decimal(digits.substr(start));
    if (d.length != 0 && d.ten < 0) return 0.0;
    why = "expected a number that fits a double (at most 1.8e308)";
    return std::nullopt;
  }
  if (ec != std::errc()) return std::nullopt;
  return value == 0 ? 0.0 : value;
}

}  // namespace rookery::config
