// str.h: text from values, always in the C locale. str("T=", 5, ", C=", 3) -> "T=5, C=3".
#pragma once

#include <charconv>
#include <concepts>
#include <sstream>
#include <string>
#include <string_view>

namespace rookery {

inline void append_str(std::string& out, std::string_view text) { out += text; }
inline void append_str(std::string& out, const char* text) { out += text; }
inline void append_str(std::string& out, const std::string& text) { out += text; }
inline void append_str(std::string& out, char c) { out += c; }
inline void append_str(std::string& out, bool b) { out += b ? "true" : "false"; }

// Shortest text that reads back to the same value.
template <class T>
requires(std::integral<T> || std::floating_point<T>) void append_str(std::string& out, T value) {
  char buffer[64];
  auto [end, ec] = std::to_chars(buffer, buffer + sizeof buffer, value);
  out.append(buffer, end);
}

template <class T>
requires requires(const T& t) {
  { to_string(t) } -> std::convertible_to<std::string>;
}
void append_str(std::string& out, const T& value) { out += to_string(value); }

template <class... Args>
std::string str(const Args&... args) {
  std::string out;
  (append_str(out, args), ...);
  return out;
}

}  // namespace rookery
