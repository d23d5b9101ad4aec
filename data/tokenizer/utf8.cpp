// utf8.cpp: see utf8.h.
#include "data/tokenizer/utf8.h"

namespace rookery::data {

Utf8Char first_utf8_char(std::string_view text) {
  using Kind = Utf8Char::Kind;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {Kind::kValid, 1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {Kind::kInvalid, 1, 0};
  const uint32_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range shuts out overlong forms (E0, F0), surrogates (ED) and what lies above U+10FFFF
  // (F4).
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  char32_t code = lead & (0x7F >> length);
  for (uint32_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Kind::kIncomplete, i, 0};
    const unsigned char next = byte(i);
    if (next < (i == 1 ? low : 0x80) || next > (i == 1 ? high : 0xBF)) return {Kind::kInvalid, i, 0};
    code = code << 6 | (next & 0x3F);
  }
  return {Kind::kValid, length, code};
}

void append_utf8(std::string& out, char32_t code) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | (code >> shift & 0x3F)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    tail(0);
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    tail(6), tail(0);
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    tail(12), tail(6), tail(0);
  }
}

size_t find_invalid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = first_utf8_char(text.substr(i));
    if (c.kind != Utf8Char::Kind::kValid) return i;
    i += c.length;
  }
  return std::string_view::npos;
}

}  // namespace rookery::data
