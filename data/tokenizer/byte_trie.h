// byte_trie.h: finds the longest token at a place of a text: the inner loop of every encode. A double array
// (Aoe 1989): the child of node n by byte c is unit base(n) + c, and it is one iff that unit's parent is n,
// so a step is a single load.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "data/tokenizer/vocabulary.h"

namespace rookery::data {

class ByteTrie {
 public:
  struct Match {
    int32_t id = -1;  // -1: no token begins here
    uint32_t length = 0;
  };

  // Tokens must differ and not be empty; ids >= 0. Time and memory grow with the sum of the tokens' lengths.
  explicit ByteTrie(std::span<const VocabEntry> entries);

  // Calls visit(id, length) for each token that `text` begins with, shortest first.
  template <class Visit>
  void prefixes(std::string_view text, Visit&& visit) const {
    const Unit* units = units_.data();
    uint32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      const uint32_t next = units[node].base + static_cast<unsigned char>(text[i]);
      if (units[next].parent != node) return;
      node = next;
      if (units[node].id >= 0) visit(units[node].id, static_cast<uint32_t>(i + 1));
    }
  }

  Match longest(std::string_view text) const {
    Match best;
    prefixes(text, [&](int32_t id, uint32_t length) { best = {id, length}; });
    return best;
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Unit {
    uint32_t base = 0;        // units base .. base + 255 always exist
    uint32_t parent = kNone;  // kNone: free (or the root)
    int32_t id = -1;          // token that ends here
  };
  std::vector<Unit> units_;
};

}  // namespace rookery::data
