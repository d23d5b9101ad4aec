// human.h: numbers and text for people: counts, durations, sizes, and names made safe to print.
// Used by all that prints. Always in the C locale, whatever LC_ALL says.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rookery::loop {

// `digits` places after the point: fixed(3.41267, 4) = "3.4127"; nan, inf and -inf by name.
std::string fixed(double value, int digits);
// Two exponent digits at least: scientific(5.98e-4, 2) = "5.98e-04".
std::string scientific(double value, int digits);

// 999, 412.3k, 629.1M, 26.2G, ... (powers of 1000, one digit after the point). "n/a" if not finite.
std::string human_count(double value);
// Two units at most: 45s, 2m05s, 3h55m, 2d03h. "n/a" if negative or not finite.
std::string human_duration(double seconds);
// GiB with one digit: gib(65712161587) = "61.2".
std::string gib(int64_t bytes);
// With its unit: mib(1572864) = "1.5 MiB".
std::string mib(int64_t bytes);

// The text with control characters as \n, \t or \xNN, so that a file name cannot steer a terminal or forge a
// log line. UTF-8 passes, except the C1 controls U+0080..U+009F. kKeep, for text of several lines: newline
// and tab pass.
enum class Breaks { kEscape, kKeep };
std::string printable(std::string_view text, Breaks breaks = Breaks::kEscape);

// Seconds since 1970 as 2025-04-24T02:23:42.481Z.
std::string utc_time(double unix_seconds);
// The wall clock, in seconds since 1970.
double unix_now();
// Seconds of a clock that is never set: for durations.
double steady_now();

}  // namespace rookery::loop
