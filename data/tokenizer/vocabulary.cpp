// vocabulary.cpp: parser and writer of the vocabulary file. One line: ID SP LITERAL SP LENGTH.
#include "data/tokenizer/vocabulary.h"

#include <optional>
#include <unordered_map>

#include "data/tokenizer/utf8.h"
#include "kernels/base/error.h"

namespace rookery::data {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Up to seven digits without sign or leading zero: enough for every id and length, and it cannot overflow.
std::optional<int32_t> parse_number(std::string_view text) {
  if (text.empty() || text.size() > 7 || (text[0] == '0' && text.size() > 1)) return std::nullopt;
  int32_t value = 0;
  for (char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');
  }
  return value;
}

std::string hex(char32_t value, int digits) {
  std::string out(digits, '0');
  for (int i = digits; i-- > 0; value >>= 4) out[i] = "0123456789abcdef"[value & 15];
  return out;
}

// A piece of the file that is safe and short enough for a message.
std::string excerpt(std::string_view text) {
  std::string out;
  for (char c : text.substr(0, 60)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7F) {
      out += "\\x" + hex(byte, 2);
    } else {
      out += c;
    }
  }
  return text.size() > 60 ? out + "..." : out;
}

// Reads one line; knows where it is, for the messages.
class LineParser {
 public:
  LineParser(std::string_view file, int64_t number, std::string_view line)
      : file_(file), number_(number), line_(line) {}

  VocabEntry parse() const {
    const size_t first = line_.find(' '), last = line_.rfind(' ');
    if (first == std::string_view::npos || first == last) {
      error("VOCAB-02", "expected ID 'TOKEN' LENGTH, separated by single spaces");
    }
    const auto id = parse_number(line_.substr(0, first));
    const auto length = parse_number(line_.substr(last + 1));
    if (!id) error("VOCAB-02", "the line must begin with a decimal id without sign or leading zero");
    if (!length) error("VOCAB-02", "the line must end with the token's length in bytes, a decimal number");
    if (*id < 1 || *id > kMaxTokenId) {
      error("VOCAB-05", str("id ", *id, " is out of range, expected 1 to ", kMaxTokenId,
                            " (0 is the end of text and not in the file)"));
    }
    std::string bytes = parse_literal(line_.substr(first + 1, last - first - 1));
    if (bytes.empty()) error("VOCAB-02", "the token is empty");
    if (bytes.size() > kMaxTokenBytes) {
      error("VOCAB-02",
            str("the token has ", bytes.size(), " bytes, at most ", kMaxTokenBytes, " are allowed"));
    }
    if (bytes.size() != static_cast<size_t>(*length)) {
      error("VOCAB-04", str("the token has ", bytes.size(), " bytes, but the line says ", *length));
    }
    return {*id, std::move(bytes)};
  }

  [[noreturn]] void error(std::string_view id, std::string_view what) const {
    fail(ExitCode::kData, id, file_, ":", number_, ": ", what, ". Found: ", excerpt(line_),
         ". Correct this line, or fetch the vocabulary again");
  }

 private:
  std::string parse_literal(std::string_view literal) const {
    const bool is_bytes = literal.starts_with('b');
    if (is_bytes) literal.remove_prefix(1);
    const char quote = literal.empty() ? '\0' : literal.front();
    if (literal.size() < 2 || literal.back() != quote || (quote != '\'' && (quote != '"' || is_bytes))) {
      error("VOCAB-02", "expected a token as '...', \"...\" or b'...'");
    }
    literal = literal.substr(1, literal.size() - 2);
    if (!is_bytes) {
      if (const size_t at = find_invalid_utf8(literal); at != std::string_view::npos) {
        error("VOCAB-02", str("byte ", at, " of the token is not valid UTF-8; write such a token as b'...'"));
      }
    }
    std::string out;
    for (size_t i = 0; i < literal.size();) {
      const auto byte = static_cast<unsigned char>(literal[i]);
      if (literal[i] == '\\') {
        i += parse_escape(literal.substr(i), is_bytes, out);
      } else if (literal[i] == quote) {
        error("VOCAB-02", str("unescaped ", quote, " inside the token"));
      } else if (byte < 0x20 || byte == 0x7F || (is_bytes && byte > 0x7F)) {
        error("VOCAB-02", str("raw byte 0x", hex(byte, 2), " inside the token; write it as an escape"));
      } else {
        out += literal[i++];
      }
    }
    return out;
  }

  // `text` begins with a backslash. Appends what the escape means and returns its length in the file.
  size_t parse_escape(std::string_view text, bool is_bytes, std::string& out) const {
    const char kind = text.size() > 1 ? text[1] : '\0';
    if (kind == '"' || (!is_bytes && (kind == '\\' || kind == '\''))) {
      out += kind;
      return 2;
    }
    if (!is_bytes && (kind == 'n' || kind == 't' || kind == 'r')) {
      out += kind == 'n' ? '\n' : kind == 't' ? '\t' : '\r';
      return 2;
    }
    if (kind == 'x' || (kind == 'u' && !is_bytes)) {
      const size_t digits = kind == 'x' ? 2 : 4;
      char32_t code = 0;
      for (size_t i = 2; i < 2 + digits; ++i) {
        const int digit = i < text.size() ? hex_digit(text[i]) : -1;
        if (digit < 0)
          error("VOCAB-03", str("\\", kind, " must be followed by ", digits, " hexadecimal digits"));
        code = code << 4 | static_cast<char32_t>(digit);
      }
      if (code >= 0xD800 && code <= 0xDFFF) error("VOCAB-03", "a \\u escape names half of a surrogate pair");
      if (is_bytes) {
        out += static_cast<char>(code);
      } else {
        append_utf8(out, code);
      }
      return 2 + digits;
    }
    error("VOCAB-03",
          str("unknown escape \\", excerpt(text.substr(1, 1)), " in a ", is_bytes ? "bytes" : "text",
              " token, expected ", is_bytes ? "\\xHH" : "\\n \\t \\r \\\\ \\' \\\" \\xHH or \\uHHHH"));
  }

  std::string_view file_;
  int64_t number_;
  std::string_view line_;
};

// What Python's repr() would escape among the characters that a vocabulary can hold: controls, invisible
// marks, every space but the plain one, private use.
bool is_unprintable(char32_t c) {
  const auto in = [c](char32_t low, char32_t high) { return c >= low && c <= high; };
  return c < 0x20 || in(0x7F, 0xA0) || c == 0xAD || in(0x600, 0x605) || c == 0x61C || c == 0x1680 ||
         c == 0x180E || in(0x2000, 0x200F) || in(0x2028, 0x202F) || in(0x205F, 0x206F) || c == 0x3000 ||
         in(0xE000, 0xF8FF) || c == 0xFEFF || in(0xFFF0, 0xFFFB) || in(0xFFFE, 0xFFFF);
}

}  // namespace

std::vector<VocabEntry> parse_vocabulary(std::string_view text, std::string_view name) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  std::vector<VocabEntry> entries;
  std::vector<int64_t> line_of_id(kMaxTokenId + 1, 0);
  std::unordered_map<std::string, int64_t> line_of_token;
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    const LineParser parser(name, number, line);
    VocabEntry entry = parser.parse();
    if (line_of_id[entry.id] != 0) {
      parser.error("VOCAB-06", str("id ", entry.id, " stands already in line ", line_of_id[entry.id]));
    }
    line_of_id[entry.id] = number;
    const auto [first, is_new] = line_of_token.try_emplace(entry.bytes, number);
    if (!is_new) parser.error("VOCAB-07", str("the same token stands already in line ", first->second));
    entries.push_back(std::move(entry));
  }
  if (entries.empty())
    fail(ExitCode::kData, "VOCAB-01", name, ": holds no token, expected a vocabulary file");
  return entries;
}

std::string token_literal(std::string_view bytes) {
  if (find_invalid_utf8(bytes) != std::string_view::npos) {
    std::string out = "b'";
    for (char c : bytes) {
      const auto byte = static_cast<unsigned char>(c);
      const bool plain = byte >= 0x20 && byte < 0x7F && c != '\'' && c != '\\';
      out += plain ? std::string(1, c) : "\\x" + hex(byte, 2);
    }
    return out + "'";
  }
  const bool has_single = bytes.find('\'') != std::string_view::npos;
  const bool has_double = bytes.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  std::string out(1, quote);
  for (size_t i = 0; i < bytes.size();) {
    const Utf8Char c = first_utf8_char(bytes.substr(i));
    if (c.code == U'\n' || c.code == U'\t' || c.code == U'\r') {
      out += c.code == U'\n' ? "\\n" : c.code == U'\t' ? "\\t" : "\\r";
    } else if (c.code == U'\\' || c.code == static_cast<char32_t>(quote)) {
      out += {'\\', bytes[i]};
    } else if (is_unprintable(c.code)) {
      out += c.code < 0x100 ? "\\x" + hex(c.code, 2) : "\\u" + hex(c.code, 4);
    } else {
      out += bytes.substr(i, c.length);
    }
    i += c.length;
  }
  return out + quote;
}

std::string format_vocabulary(std::span<const VocabEntry> entries) {
  std::string out;
  for (const VocabEntry& e : entries) {
    append_str(out, str(e.id, ' ', token_literal(e.bytes), ' ', e.bytes.size(), '\n'));
  }
  return out;
}

}  // namespace rookery::data
