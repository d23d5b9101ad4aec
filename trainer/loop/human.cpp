// human.cpp: see human.h. std::to_chars is used throughout because it knows no locale.
#include "trainer/loop/human.h"

#include <charconv>
#include <chrono>
#include <cmath>
#include <ctime>

#include "kernels/base/str.h"

namespace rookery::loop {
namespace {

std::string number(double value, std::chars_format format, int digits) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[400];  // the largest double has 309 digits before the point
  auto [end, ec] = std::to_chars(buffer, buffer + sizeof buffer, value, format, digits);
  return std::string(buffer, end);
}

std::string two_digits(int64_t value) { return str(value < 10 ? "0" : "", value); }

}  // namespace

std::string fixed(double value, int digits) { return number(value, std::chars_format::fixed, digits); }
std::string scientific(double value, int digits) {
  return number(value, std::chars_format::scientific, digits);
}

std::string human_count(double value) {
  if (!std::isfinite(value)) return "n/a";
  if (value < 0) return str("-", human_count(-value));
  if (value < 999.5) return fixed(value, 0);
  constexpr std::string_view kUnits = "kMGTPEZY";
  size_t unit = 0;
  for (value /= 1000; value >= 999.95 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
  return str(fixed(value, 1), kUnits[unit]);
}

std::string human_duration(double seconds) {
  constexpr double kMostSeconds = 1e12;  // 30 thousand years; keeps the conversion below defined
  if (!(seconds >= 0 && seconds < kMostSeconds)) return "n/a";
  const int64_t s = std::llround(seconds), m = s / 60, h = m / 60, d = h / 24;
  if (d > 0) return str(d, "d", two_digits(h % 24), "h");
  if (h > 0) return str(h, "h", two_digits(m % 60), "m");
  if (m > 0) return str(m, "m", two_digits(s % 60), "s");
  return str(s, "s");
}

std::string gib(int64_t bytes) { return fixed(static_cast<double>(bytes) / (1024.0 * 1024 * 1024), 1); }

std::string mib(int64_t bytes) { return fixed(static_cast<double>(bytes) / (1 << 20), 1) + " MiB"; }

std::string printable(std::string_view text, Breaks breaks) {
  std::string out;
  const auto escape = [&out](unsigned char byte) {
    constexpr std::string_view kHex = "0123456789abcdef";
    out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool c1 = byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (breaks == Breaks::kKeep && (byte == '\n' || byte == '\t')) {
      out += text[i];
    } else if (byte == '\n') {
      out += "\\n";
    } else if (byte == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      escape(byte);
    } else if (c1) {
      escape(byte);
      escape(static_cast<unsigned char>(text[++i]));
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string utc_time(double unix_seconds) {
  const auto milliseconds = static_cast<int64_t>(std::floor(unix_seconds * 1000));
  const std::time_t whole = milliseconds / 1000;
  std::tm parts{};
  gmtime_r(&whole, &parts);
  char text[32];
  const size_t length = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  const std::string fraction = str(1000 + milliseconds % 1000);
  return str(std::string_view(text, length), ".", fraction.substr(1), "Z");
}

double unix_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}
double steady_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace rookery::loop
