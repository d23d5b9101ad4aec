// split.cpp: see split.h. The alternatives of a pattern are tried in their order; the first that matches
// wins.
#include "data/tokenizer/split.h"

#include "data/tokenizer/unicode.h"
#include "data/tokenizer/utf8.h"

namespace rookery::data {
namespace {

constexpr std::string_view kGpt2Regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct Char {
  size_t length = 0;  // 0: the end of the text
  CharClass kind = CharClass::kOther;
  char32_t code = 0;  // 0 where it is ill-formed, too
  bool is_line_end() const { return code == '\r' || code == '\n'; }
};

Char char_at(std::string_view text, size_t at) {
  if (at >= text.size()) return {};
  const Utf8Char c = first_utf8_char(text.substr(at));
  return {c.length, c.kind == Utf8Char::Kind::kValid ? char_class(c.code) : CharClass::kOther, c.code};
}

// Where a run of characters of this class that begins at `at` ends.
size_t end_of_run(std::string_view text, size_t at, CharClass kind) {
  for (Char c = char_at(text, at); c.length > 0 && c.kind == kind; c = char_at(text, at)) at += c.length;
  return at;
}

// `(?i:'s|'t|'re|'ve|'m|'ll|'d)`, or the same without (?i:...); 0 where it does not match.
size_t contraction(std::string_view text, bool any_case) {
  if (text[0] != '\'') return 0;
  // In any case the long s (U+017F) is an s, too.
  if (any_case && text.substr(1).starts_with("\u017F")) return 3;
  const auto letter = [&](size_t i) {
    if (i >= text.size()) return '\0';
    const bool upper = any_case && text[i] >= 'A' && text[i] <= 'Z';
    return upper ? static_cast<char>(text[i] | 0x20) : text[i];
  };
  const char a = letter(1), b = letter(2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  return 0;
}

// `\s+(?!\S)|\s+`, where text begins with a space: the run without its last character, if something follows.
size_t spaces(std::string_view text) {
  size_t at = 0, last = 0;
  for (Char c = char_at(text, 0); c.length > 0 && c.kind == CharClass::kSpace; c = char_at(text, at)) {
    last = at;
    at += c.length;
  }
  return at == text.size() || last == 0 ? at : last;
}

size_t gpt2_piece(std::string_view text) {
  if (const size_t n = contraction(text, false)) return n;
  const size_t blank = text[0] == ' ' ? 1 : 0;
  const Char c = char_at(text, blank);
  if (c.length > 0 && c.kind != CharClass::kSpace) return end_of_run(text, blank, c.kind);
  return spaces(text);
}

// The pattern of Llama-3; Qwen2's with digits_at_once = 1.
size_t llama3_piece(std::string_view text, int digits_at_once) {
  if (const size_t n = contraction(text, true)) return n;

  // [^\r\n\p{L}\p{N}]?\p{L}+
  const Char first = char_at(text, 0), second = char_at(text, first.length);
  if (first.kind == CharClass::kLetter) return end_of_run(text, 0, CharClass::kLetter);
  if (first.kind != CharClass::kNumber && !first.is_line_end() && second.length > 0 &&
      second.kind == CharClass::kLetter)
    return end_of_run(text, first.length, CharClass::kLetter);

  if (first.kind == CharClass::kNumber) {
    size_t at = first.length;
    for (int i = 1; i < digits_at_once; ++i) {
      const Char next = char_at(text, at);
      if (next.length == 0 || next.kind != CharClass::kNumber) break;
      at += next.length;
    }
    return at;
  }

  // ` ?[^\s\p{L}\p{N}]+[\r\n]*`
  const size_t blank = text[0] == ' ' ? 1 : 0;
  const Char c = blank ? second : first;
  if (c.length > 0 && c.kind == CharClass::kOther) {
    size_t at = end_of_run(text, blank, CharClass::kOther);
    while (at < text.size() && (text[at] == '\r' || text[at] == '\n')) ++at;
    return at;
  }

  // `\s*[\r\n]+`: up to the last line end of the run of spaces.
  size_t line_end = 0, at = 0;
  for (Char s = first; s.length > 0 && s.kind == CharClass::kSpace; s = char_at(text, at)) {
    at += s.length;
    if (s.is_line_end()) line_end = at;
  }
  return line_end > 0 ? line_end : spaces(text);
}

}  // namespace

std::string_view regex_of(SplitPattern pattern) {
  switch (pattern) {
    case SplitPattern::kGpt2:
      return kGpt2Regex;
    case SplitPattern::kLlama3:
      return kLlama3Regex;
    default:
      return kQwen2Regex;
  }
}

std::optional<SplitPattern> split_pattern_of(std::string_view regex) {
  for (const SplitPattern pattern : {SplitPattern::kGpt2, SplitPattern::kLlama3, SplitPattern::kQwen2})
    if (regex == regex_of(pattern)) return pattern;
  return std::nullopt;
}

size_t piece_length(SplitPattern pattern, std::string_view text) {
  switch (pattern) {
    case SplitPattern::kGpt2:
      return gpt2_piece(text);
    case SplitPattern::kLlama3:
      return llama3_piece(text, 3);
    default:
      return llama3_piece(text, 1);
  }
}

}  // namespace rookery::data
