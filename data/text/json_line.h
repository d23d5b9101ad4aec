// json_line.h: the text field of one line of JSON Lines, fast and strict (RFC 8259). Only the one field is
// unescaped; the rest is checked and passed over.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace rookery::data {

enum class RecordFault {
  kNone,
  kBadJson,         // not one JSON value
  kNotAnObject,     // a value of another kind
  kMissingField,    // no such key
  kNotText,         // the field is null, a number, ...
  kDuplicateField,  // the key stands twice
  kTooDeep,         // nested deeper than 512
  kBadText,         // invalid UTF-8, a lone surrogate, or in raw text a NUL or U+FFFE
};
std::string_view to_string(RecordFault fault);  // as in reports: "bad JSON"

struct JsonText {
  RecordFault fault = RecordFault::kNone;
  size_t offset = 0;  // of the fault within the line
  int64_t replaced = 0;
};

// Puts the string at `field` of the object in `line` into `text`. `replace_bad_text`: lone surrogates become
// U+FFFD, counted in `replaced`, else they are kBadText. Invalid UTF-8 is not looked for here: the caller has
// checked the line.
JsonText json_text(std::string_view line, std::string_view field, bool replace_bad_text, std::string& text);

// Byte offset of the first thing in raw text that is no good text (invalid UTF-8, NUL, U+FFFE); npos if there
// is none.
size_t find_bad_text(std::string_view text);
// The text with each such thing replaced by U+FFFD; adds their number to `replaced`.
std::string replace_bad_text(std::string_view text, int64_t& replaced);

}  // namespace rookery::data
