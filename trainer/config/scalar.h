// scalar.h: numbers as people write them: 2048, 1_000, 0x10, 6e-4, 300M, 2Ti, 64MiB, 1h30m. Always in the C
// locale. Used by: the YAML reader and overrides (fields.cpp), options of the command line
// (trainer/cli/command.cpp).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace rookery::config {

// What a number counts, which decides the suffixes that it may carry:
//   kPlain    k M B (or G) T = powers of 1000; Ki Mi Gi Ti = powers of 1024
//   kBytes    B kB MB GB TB; KiB MiB GiB TiB; a bare number is bytes
//   kSeconds  s m h d and sums of them (1h30m); a bare number is seconds
//   kMinutes  the same; the value and a bare number are minutes
enum class Unit { kPlain, kBytes, kSeconds, kMinutes };

// Exact: 1.5k is 1500, 0.5 is refused, and so is all that does not fit 64 bits. On failure `why` says what
// was expected.
std::optional<int64_t> parse_integer(std::string_view text, Unit unit, std::string& why);

// Finite: 1e400, inf and nan are refused; -0 is 0. What underflows is 0. Suffixes as above, except those of
// kPlain.
std::optional<double> parse_number(std::string_view text, Unit unit, std::string& why);

}  // namespace rookery::config
