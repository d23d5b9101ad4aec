// unicode.h: what byte-level BPE needs of Unicode: the classes that its split patterns name, and NFC. The
// tables are libutf8proc's. UTF-8 itself: utf8.h.
#pragma once

#include <string>
#include <string_view>

namespace rookery::data {

enum class CharClass {
  kLetter,  // \p{L}
  kNumber,  // \p{N}
  kSpace,   // \s: the property White_Space
  kOther,
};
CharClass char_class(char32_t code);

// Normalisation form C; ill-formed sequences stay as they are. O(n log n) for any text.
std::string to_nfc(std::string_view text);

// The first character as a capital, the others small, character by character.
std::string capitalised(std::string_view text);

}  // namespace rookery::data
