// utf8.h: the one UTF-8 decoder of the data layer (Unicode 15, table 3-7): no overlong forms, no surrogates,
// nothing above U+10FFFF. An ill-formed sequence is taken by its maximal valid prefix, as every browser does
// when it shows U+FFFD.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rookery::data {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

struct Utf8Char {
  enum class Kind {
    kValid,
    kInvalid,
    kIncomplete
  };  // kIncomplete: the text ends inside a character that is valid so far
  Kind kind;
  uint32_t length;  // bytes taken, >= 1
  char32_t code;    // the code point; 0 unless kValid
};

// Decodes the first character of `text`, which must not be empty.
Utf8Char first_utf8_char(std::string_view text);

// Appends a code point (not a surrogate, at most U+10FFFF).
void append_utf8(std::string& out, char32_t code);

// Byte offset of the first ill-formed sequence; npos if the whole text is valid UTF-8.
size_t find_invalid_utf8(std::string_view text);

}  // namespace rookery::data
