// json_line.cpp: a recursive scanner over one line. Strings are passed in runs of plain bytes.
#include "data/text/json_line.h"

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "data/tokenizer/utf8.h"

namespace rookery::data {

namespace {

constexpr int kMaxDepth = 512;

// True for a byte that ends a run of plain bytes of a JSON string.
constexpr std::array<bool, 256> kSpecial = [] {
  std::array<bool, 256> table{};
  for (int c = 0; c < 32; ++c) table[static_cast<size_t>(c)] = true;
  table['"'] = table['\\'] = true;
  return table;
}();

constexpr uint64_t kOnes = 0x0101010101010101, kHighs = 0x8080808080808080;
// A word with a bit set in the high half of each byte that is zero (exact for the lowest such byte).
uint64_t zero_bytes(uint64_t word) { return (word - kOnes) & ~word & kHighs; }
uint64_t load_word(const char* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

class Scanner {
 public:
  Scanner(std::string_view line, bool replace)
      : begin_(line.data()), p_(begin_), end_(begin_ + line.size()), replace_(replace) {}

  JsonText run(std::string_view field, std::string& text) {
    skip_space();
    if (p_ == end_ || *p_ != '{') {
      // A sound value of another kind, or no JSON at all?
      if (value(0) && at_end()) stop(RecordFault::kNotAnObject, begin_);
      return result_;
    }
    bool found = false;
    std::string key;
    RecordFault complaint = RecordFault::kNone;  // reported only if the line is sound JSON
    const char* where = begin_;
    ++p_;
    skip_space();
    for (bool more = !take('}'); more;) {
      key.clear();
      if (!string(&key) || !colon()) return result_;
      if (key != field) {
        if (!value(1)) return result_;
      } else if (p_ != end_ && *p_ == '"') {
        if (found) complaint = RecordFault::kDuplicateField, where = p_;
        found = true;
        text.clear();
        if (!string(&text)) return result_;
      } else {
        complaint = found ? RecordFault::kDuplicateField : RecordFault::kNotText, where = p_;
        found = true;
        if (!value(1)) return result_;
      }
      if (!next_or_close('}', more)) return result_;
    }
    if (!at_end()) return result_;
    if (complaint != RecordFault::kNone) {
      stop(complaint, where);
    } else if (!found) {
      stop(RecordFault::kMissingField, begin_);
    }
    return result_;
  }

 private:
  bool stop(RecordFault fault, const char* where) {
    result_.fault = fault;
    result_.offset = static_cast<size_t>(where - begin_);
    return false;
  }
  bool bad() { return stop(RecordFault::kBadJson, p_); }

  void skip_space() {
    while (p_ != end_ && (*p_ == ' ' || *p_ == '\t' || *p_ == '\r' || *p_ == '\n')) ++p_;
  }
  bool take(char c) {
    if (p_ == end_ || *p_ != c) return false;
    ++p_;
    return true;
  }
  bool colon() {
    skip_space();
    if (!take(':')) return bad();
    skip_space();
    return true;
  }
  // After a member or element: `more` tells whether another follows.
  bool next_or_close(char close, bool& more) {
    skip_space();
    if (take(close)) {
      more = false;
      return true;
    }
    if (!take(',')) return bad();
    skip_space();
    return more = true;
  }
  bool at_end() {
    skip_space();
    return p_ == end_ || bad();
  }

  bool value(int depth) {
    if (depth > kMaxDepth) return stop(RecordFault::kTooDeep, p_);
    if (p_ == end_) return bad();
    switch (*p_) {
      case '"':
        return string(nullptr);
      case '{':
        return object(depth);
      case '[':
        return array(depth);
      case 't':
        return word("true");
      case 'f':
        return word("false");
      case 'n':
        return word("null");
      default:
        return number();
    }
  }
  bool object(int depth) {
    ++p_;
    skip_space();
    for (bool more = !take('}'); more;)
      if (!string(nullptr) || !colon() || !value(depth + 1) || !next_or_close('}', more)) return false;
    return true;
  }
  bool array(int depth) {
    ++p_;
    skip_space();
    for (bool more = !take(']'); more;)
      if (!value(depth + 1) || !next_or_close(']', more)) return false;
    return true;
  }
  bool word(std::string_view expected) {
    if (!std::string_view(p_, static_cast<size_t>(end_ - p_)).starts_with(expected)) return bad();
    p_ += expected.size();
    return true;
  }
  bool digits() {
    const char* first = p_;
    while (p_ != end_ && *p_ >= '0' && *p_ <= '9') ++p_;
    return p_ != first || bad();
  }
  bool number() {
    take('-');
    if (!take('0') && !digits()) return false;
    if (take('.') && !digits()) return false;
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      return digits();
    }
    return true;
  }

  // A string at p_; its text goes to `out` if that is not null.
  bool string(std::string* out) {
    if (!take('"')) return bad();
    while (true) {
      const char* run = p_;
      while (end_ - p_ >= 8) {
        const uint64_t w = load_word(p_);
        const uint64_t special =
            zero_bytes(w ^ kOnes * '"') | zero_bytes(w ^ kOnes * '\\') | ((w - kOnes * 32) & ~w & kHighs);
        if (special != 0) break;
        p_ += 8;
      }
      while (p_ != end_ && !kSpecial[static_cast<uint8_t>(*p_)]) ++p_;
      if (out) out->append(run, p_);
      if (take('"')) return true;
      if (p_ == end_ || *p_ != '\\' || !escape(out))
        return result_.fault == RecordFault::kNone ? bad() : false;
    }
  }

  // At a backslash.
  bool escape(std::string* out) {
    constexpr std::string_view kLetters = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
    const char* start = p_++;
    if (p_ == end_) return bad();
    if (*p_ != 'u') {
      const size_t i = kLetters.find(*p_);
      if (i == std::string_view::npos) return bad();
      ++p_;
      if (out) out->push_back(kValues[i]);
      return true;
    }
    uint32_t code = 0;
    if (!hex4(code)) return bad();
    if (code >= 0xD800 && code < 0xDC00 && end_ - p_ >= 6 && p_[0] == '\\' && p_[1] == 'u') {
      const char* second = p_++;
      uint32_t low = 0;
      if (!hex4(low)) return bad();
      if (low >= 0xDC00 && low < 0xE000)
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      else
        p_ = second;  // not the other half: a character of its own
    }
    if (code >= 0xD800 && code < 0xE000) {
      if (!out) return true;  // in a part that is not read
      if (!replace_) return stop(RecordFault::kBadText, start);
      ++result_.replaced;
      code = 0xFFFD;
    }
    if (out) append_utf8(*out, code);
    return true;
  }

  // At the 'u' of \uXXXX.
  bool hex4(uint32_t& code) {
    if (end_ - p_ < 5) return false;
    ++p_;
    code = 0;
    for (int i = 0; i < 4; ++i, ++p_) {
      const char c = *p_;
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return false;
      code = code << 4 | static_cast<uint32_t>(digit);
    }
    return true;
  }

  const char* begin_;
  const char* p_;
  const char* end_;
  bool replace_;
  JsonText result_;
};

}  // namespace

std::string_view to_string(RecordFault fault) {
  switch (fault) {
    case RecordFault::kNone:
      return "none";
    case RecordFault::kBadJson:
      return "bad JSON";
    case RecordFault::kNotAnObject:
      return "not an object";
    case RecordFault::kMissingField:
      return "missing field";
    case RecordFault::kNotText:
      return "field is not text";
    case RecordFault::kDuplicateField:
      return "field given twice";
    case RecordFault::kTooDeep:
      return "nested deeper than 512";
    case RecordFault::kBadText:
      return "bad text";
  }
  return "";
}

JsonText json_text(std::string_view line, std::string_view field, bool replace_bad_text, std::string& text) {
  return Scanner(line, replace_bad_text).run(field, text);
}

size_t find_bad_text(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    if (text.size() - i >= 8) {
      const uint64_t word = load_word(text.data() + i);
      if ((word & kHighs) == 0 && zero_bytes(word) == 0) {  // eight ASCII characters, none NUL
        i += 8;
        continue;
      }
    }
    const Utf8Char c = first_utf8_char(text.substr(i));
    if (c.kind != Utf8Char::Kind::kValid || c.code == 0 || c.code == 0xFFFE) return i;
    i += c.length;
  }
  return std::string_view::npos;
}

std::string replace_bad_text(std::string_view text, int64_t& replaced) {
  std::string out;
  for (size_t bad; (bad = find_bad_text(text)) != std::string_view::npos; ++replaced) {
    out += text.substr(0, bad);
    out += kReplacementCharacter;
    text.remove_prefix(bad + first_utf8_char(text.substr(bad)).length);
  }
  return out += text;
}

}  // namespace rookery::data
