// byte_trie.cpp: building the double array, level by level from the sorted tokens.
#include "data/tokenizer/byte_trie.h"

#include <algorithm>
#include <numeric>

namespace rookery::data {

ByteTrie::ByteTrie(std::span<const VocabEntry> entries) {
  std::vector<uint32_t> order(entries.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return entries[a].bytes < entries[b].bytes; });

  struct Range {  // the tokens order[low, high) share their first `depth` bytes, which lead to `node`
    size_t low, high, depth;
    uint32_t node;
  };
  struct Child {
    unsigned char byte;
    size_t low, high;
  };
  units_.resize(512);
  // Unit 0 is the root. Units 1..255 stay free: leaves have base 0, so their look-ups end there.
  uint32_t first_free = 256;
  std::vector<Range> level{{0, order.size(), 0, 0}}, next_level;
  std::vector<Child> children;
  for (; !level.empty(); level.swap(next_level), next_level.clear()) {
    for (const Range& range : level) {
      size_t low = range.low;
      if (low < range.high && entries[order[low]].bytes.size() == range.depth) {
        units_[range.node].id = entries[order[low]].id;
        ++low;
      }
      children.clear();
      for (; low < range.high; low = children.back().high) {
        const char byte = entries[order[low]].bytes[range.depth];
        size_t high = low + 1;
        while (high < range.high && entries[order[high]].bytes[range.depth] == byte) ++high;
        children.push_back({static_cast<unsigned char>(byte), low, high});
      }
      if (children.empty()) continue;

      // First fit: the lowest place where all children find a free unit.
      const uint32_t begin = first_free;
      uint32_t place = begin, tried_free = 0;
      for (;; ++place) {
        if (units_.size() < place + 512) units_.resize(units_.size() * 2);
        if (units_[place].parent != kNone) continue;
        ++tried_free;
        const uint32_t base = place - children.front().byte;
        if (std::all_of(children.begin(), children.end(),
                        [&](const Child& c) { return units_[base + c.byte].parent == kNone; })) {
          break;
        }
      }
      // Where hardly anything is free, do not search again: that keeps the whole build near linear.
      if (tried_free * 32 < place - begin) first_free = place;
      const uint32_t base = place - children.front().byte;
      units_[range.node].base = base;
      for (const Child& c : children) {
        units_[base + c.byte].parent = range.node;
        next_level.push_back({c.low, c.high, range.depth + 1, base + c.byte});
      }
    }
  }
  uint32_t last_base = 0;
  for (const Unit& u : units_) last_base = std::max(last_base, u.base);
  units_.resize(last_base + 256);
  units_.shrink_to_fit();
}

}  // namespace rookery::data
