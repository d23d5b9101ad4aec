// unicode.cpp: see unicode.h.
#include "data/tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "data/tokenizer/utf8.h"
#include "kernels/base/error.h"

namespace rookery::data {
namespace {

constexpr char32_t kFirstMark = 0x300;  // below it no character combines with the one before it

int combining_class(int32_t code) { return utf8proc_get_property(code)->combining_class; }

// Appends the NFC of `codes`, which are cleared.
void compose(std::vector<int32_t>& codes, std::string& out) {
  std::vector<int32_t> parts;
  for (const int32_t code : codes) {
    int32_t buffer[32];  // a canonical decomposition has at most four characters
    int boundary = 0;
    const auto n = utf8proc_decompose_char(code, buffer, std::size(buffer), UTF8PROC_DECOMPOSE, &boundary);
    RK_CHECK(n > 0 && n <= static_cast<utf8proc_ssize_t>(std::size(buffer)), "[to_nfc] decomposition of ",
             code);
    parts.insert(parts.end(), buffer, buffer + n);
  }
  codes.clear();
  // Marks in canonical order: by the library this would be quadratic in the length of a run of marks.
  for (auto begin = parts.begin(); begin != parts.end();) {
    begin = std::find_if(begin, parts.end(), combining_class);
    const auto end = std::find_if_not(begin, parts.end(), combining_class);
    std::stable_sort(begin, end,
                     [](int32_t a, int32_t b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
  const auto left =
      utf8proc_normalize_utf32(parts.data(), static_cast<utf8proc_ssize_t>(parts.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  RK_CHECK(left >= 0, "[to_nfc] composition failed");
  for (utf8proc_ssize_t i = 0; i < left; ++i) append_utf8(out, static_cast<char32_t>(parts[i]));
}

}  // namespace

CharClass char_class(char32_t code) {
  if (code == ' ' || (code >= '\t' && code <= '\r')) return CharClass::kSpace;
  if (code < 0x80) {
    const char32_t lower = code | 0x20;
    if (lower >= 'a' && lower <= 'z') return CharClass::kLetter;
    return code >= '0' && code <= '9' ? CharClass::kNumber : CharClass::kOther;
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharClass::kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharClass::kNumber;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return CharClass::kSpace;
    default:
      return code == 0x85 ? CharClass::kSpace : CharClass::kOther;
  }
}

std::string to_nfc(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  // Characters from one that begins a new unit up to the next one; such units are composed apart.
  std::vector<int32_t> unit;
  bool plain = true;  // the unit is one character below kFirstMark: it stays as it is
  const auto flush = [&] {
    if (plain) {
      for (const int32_t code : unit) append_utf8(out, static_cast<char32_t>(code));
      unit.clear();
    } else {
      compose(unit, out);
    }
    plain = true;
  };
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = first_utf8_char(text.substr(at));
    if (c.kind != Utf8Char::Kind::kValid || c.code < kFirstMark) flush();
    if (c.kind != Utf8Char::Kind::kValid) {
      out += text.substr(at, c.length);
    } else {
      unit.push_back(static_cast<int32_t>(c.code));
      plain = plain && c.code < kFirstMark;
    }
    at += c.length;
  }
  flush();
  return out;
}

std::string capitalised(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = first_utf8_char(text.substr(at));
    if (c.kind == Utf8Char::Kind::kValid) {
      const auto code = static_cast<int32_t>(c.code);
      append_utf8(out, static_cast<char32_t>(at == 0 ? utf8proc_totitle(code) : utf8proc_tolower(code)));
    } else {
      out += text.substr(at, c.length);
    }
    at += c.length;
  }
  return out;
}

}  // namespace rookery::data
