// candidates.cpp: counts substrings level by level: strings of k characters are only counted where their
// first k-1 characters were frequent, so the tables stay small however long the text is.
#include "data/tokenizer/candidates.h"

#include <algorithm>
#include <array>

#include "data/tokenizer/utf8.h"

namespace rookery::data {
namespace {

constexpr char32_t kBreak = 0xFFFFFFFF;  // no candidate crosses it: end of a text, invalid UTF-8
constexpr uint32_t kMaxChars = 32;

enum class CharClass : uint8_t { kBreak, kSpace, kTab, kNewline, kDigit, kLetter, kCjk, kMark };

// By blocks of Unicode: exact enough to place word boundaries, and needs no table of 150 000 characters.
CharClass class_of(char32_t c) {
  const auto in = [c](char32_t low, char32_t high) { return c >= low && c <= high; };
  if (c == kBreak) return CharClass::kBreak;
  if (c == U' ') return CharClass::kSpace;
  if (c == U'\t') return CharClass::kTab;
  if (c == U'\n' || c == U'\r') return CharClass::kNewline;
  if (in(U'0', U'9') || in(0xFF10, 0xFF19)) return CharClass::kDigit;
  if (in(U'a', U'z') || in(U'A', U'Z')) return CharClass::kLetter;
  if (c < 0xAA) return CharClass::kMark;
  if (c < 0xC0) return c == 0xAA || c == 0xB5 || c == 0xBA ? CharClass::kLetter : CharClass::kMark;
  if (c == 0xD7 || c == 0xF7) return CharClass::kMark;
  if (c < 0x2000)
    return CharClass::kLetter;  // Latin, Greek, Cyrillic, Semitic, Indic ... with their combining marks
  if (in(0x3005, 0x3007) || in(0x3040, 0x30FA) || in(0x30FC, 0x312F) || in(0x31A0, 0x31FF) ||
      in(0x3400, 0x4DBF) || in(0x4E00, 0x9FFF) || in(0xF900, 0xFAFF) || in(0xFF66, 0xFF9F) ||
      in(0x20000, 0x3FFFF)) {
    return CharClass::kCjk;
  }
  if (in(0x2C00, 0x2DFF) || in(0x3130, 0x318F) || in(0xA000, 0xABFF) || in(0xAC00, 0xD7FF) ||
      in(0xFB00, 0xFDFF) || in(0xFE70, 0xFEFE) || in(0xFF21, 0xFF3A) || in(0xFF41, 0xFF5A) ||
      in(0x10000, 0x1CFFF)) {
    return CharClass::kLetter;
  }
  return CharClass::kMark;
}

// What a candidate is so far. The suffix of a legal string is legal too.
enum class Kind : uint8_t {
  kEmpty,
  kOneSpace,
  kBlanks,
  kNewlines,
  kIndent,
  kDigits,
  kLetters,
  kCjk,
  kMarks,
  kLineEnd,
  kStop
};

// The kind of a string of `kind` with one more character. `chars` counts the new one.
Kind extend(Kind kind, CharClass next, uint32_t chars) {
  const bool first = kind == Kind::kEmpty || kind == Kind::kOneSpace;
  const auto keep = [&](bool condition, Kind result) { return condition ? result : Kind::kStop; };
  switch (next) {
    case CharClass::kSpace:
    case CharClass::kTab:
      if (kind == Kind::kEmpty && next == CharClass::kSpace) return Kind::kOneSpace;
      if (kind == Kind::kNewlines || kind == Kind::kIndent) return Kind::kIndent;
      return keep(first || kind == Kind::kBlanks, Kind::kBlanks);
    case CharClass::kNewline:
      if (kind == Kind::kEmpty || kind == Kind::kNewlines) return Kind::kNewlines;
      return keep(kind == Kind::kMarks || kind == Kind::kLineEnd, Kind::kLineEnd);
    case CharClass::kDigit:
      return keep((first || kind == Kind::kDigits) && chars <= 3, Kind::kDigits);
    case CharClass::kLetter:
      return keep((first || kind == Kind::kLetters) && chars <= 24, Kind::kLetters);
    case CharClass::kCjk:
      return keep((kind == Kind::kEmpty || kind == Kind::kCjk) && chars <= 6, Kind::kCjk);
    case CharClass::kMark:
      return keep(first || kind == Kind::kMarks, Kind::kMarks);
    case CharClass::kBreak:
      return Kind::kStop;
  }
  return Kind::kStop;
}

// A string, as its last character after another string.
struct Node {
  uint32_t parent;
  char32_t last;
  int64_t weight;
  uint32_t first_end;  // one past its first occurrence, in characters
  uint32_t chars;
  Kind kind;
};

// (parent, character) -> node; open addressing, because this look-up is nearly all of the time.
class ChildTable {
 public:
  explicit ChildTable(std::vector<Node>& nodes) : nodes_(nodes), slots_(1 << 16, 0) {}

  // The child, or 0 if there is none yet.
  uint32_t find(uint32_t parent, char32_t last) const { return slots_[slot_of(parent, last)]; }

  uint32_t find_or_add(const Node& node) {
    const size_t slot = slot_of(node.parent, node.last);
    if (slots_[slot] != 0) return slots_[slot];
    const auto index = static_cast<uint32_t>(nodes_.size());
    nodes_.push_back(node);
    slots_[slot] = index;
    if (nodes_.size() * 2 > slots_.size()) rebuild(slots_.size() * 2);
    return index;
  }

  // Forgets the nodes that were cut off the end of the vector.
  void rebuild(size_t num_slots) {
    slots_.assign(num_slots, 0);
    for (uint32_t i = 1; i < nodes_.size(); ++i) slots_[slot_of(nodes_[i].parent, nodes_[i].last)] = i;
  }
  size_t num_slots() const { return slots_.size(); }

 private:
  size_t slot_of(uint32_t parent, char32_t last) const {
    uint64_t hash = (uint64_t{parent} << 32 | last) * 0x9E3779B97F4A7C15u;
    size_t slot = (hash ^ hash >> 32) & (slots_.size() - 1);
    while (slots_[slot] != 0 &&
           (nodes_[slots_[slot]].parent != parent || nodes_[slots_[slot]].last != last)) {
      slot = (slot + 1) & (slots_.size() - 1);
    }
    return slot;
  }

  std::vector<Node>& nodes_;
  std::vector<uint32_t> slots_;  // index of a node; 0 (the root): free
};

}  // namespace

std::vector<std::string> find_candidates(const std::vector<WeightedText>& texts, int64_t least_count,
                                         size_t most) {
  struct Occurrence {
    uint32_t node, end;  // the node's string ends before character `end`
    uint32_t text;
  };
  std::vector<char32_t> chars;
  std::vector<Occurrence> active;
  for (size_t t = 0; t < texts.size(); ++t) {
    for (std::string_view rest = texts[t].text; !rest.empty();) {
      const Utf8Char c = first_utf8_char(rest);
      rest.remove_prefix(c.length);
      active.push_back({0, static_cast<uint32_t>(chars.size()), static_cast<uint32_t>(t)});
      chars.push_back(c.kind == Utf8Char::Kind::kValid ? c.code : kBreak);
    }
    chars.push_back(kBreak);
  }

  const int64_t least_weight = least_count * kUnitWeight;
  std::vector<Node> nodes{{0, kBreak, 0, 0, 0, Kind::kEmpty}};
  ChildTable table(nodes);
  for (uint32_t level = 1; level <= kMaxChars && !active.empty(); ++level) {
    const auto first_new = static_cast<uint32_t>(nodes.size());
    size_t kept = 0;
    for (Occurrence o : active) {
      const char32_t next = chars[o.end];
      const Kind kind = extend(nodes[o.node].kind, class_of(next), level);
      if (kind == Kind::kStop) continue;
      o.end += 1;
      o.node = table.find_or_add({o.node, next, 0, o.end, level, kind});
      nodes[o.node].weight += texts[o.text].weight;
      active[kept++] = o;
    }
    active.resize(kept);
    // Keep the frequent ones, in order of first occurrence.
    std::vector<uint32_t> renumbered(nodes.size() - first_new, 0);
    uint32_t end = first_new;
    for (uint32_t i = first_new; i < nodes.size(); ++i) {
      if (nodes[i].weight < least_weight) continue;
      renumbered[i - first_new] = end;
      nodes[end++] = nodes[i];
    }
    nodes.resize(end);
    table.rebuild(table.num_slots());
    kept = 0;
    for (Occurrence o : active) {
      o.node = renumbered[o.node - first_new];
      if (o.node != 0) active[kept++] = o;
    }
    active.resize(kept);
  }

  // The heaviest string that is one character longer, on either side. A node's suffix is a node: it is at
  // least as frequent.
  std::vector<int64_t> longer(nodes.size(), 0);
  std::vector<uint32_t> suffix(nodes.size(), 0);
  for (uint32_t i = 1; i < nodes.size(); ++i) {
    const Node& n = nodes[i];
    if (n.parent != 0) suffix[i] = table.find(suffix[n.parent], n.last);
    longer[n.parent] = std::max(longer[n.parent], n.weight);
    longer[suffix[i]] = std::max(longer[suffix[i]], n.weight);
  }

  struct Scored {
    int64_t score;
    std::string bytes;
  };
  std::vector<Scored> scored;
  for (uint32_t i = 1; i < nodes.size(); ++i) {
    const Node& n = nodes[i];
    if (longer[i] * 10 > n.weight * 9) continue;
    std::string bytes;
    for (uint32_t at = n.first_end - n.chars; at < n.first_end; ++at) append_utf8(bytes, chars[at]);
    if (bytes.size() < 2) continue;
    scored.push_back({n.weight * static_cast<int64_t>(bytes.size() - 1), std::move(bytes)});
  }
  std::sort(scored.begin(), scored.end(), [](const Scored& a, const Scored& b) {
    return a.score != b.score ? a.score > b.score : a.bytes < b.bytes;
  });
  if (scored.size() > most) scored.resize(most);
  std::vector<std::string> candidates;
  for (Scored& s : scored) candidates.push_back(std::move(s.bytes));
  return candidates;
}

}  // namespace rookery::data
