// candidates.h: the strings of a text that may become tokens: first half of learning a vocabulary
// (vocab_trainer.h). A token never cuts a character and never joins things that a reader would separate.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rookery::data {

// A piece of text that counts `weight` times, in units of 1/kUnitWeight.
struct WeightedText {
  std::string_view text;
  int64_t weight;
};
inline constexpr int64_t kUnitWeight = 64;

// At most `most` strings of two bytes or more that occur in `texts` with a weight of `least_count` units or
// more, the most promising first (weight times bytes saved). Their shapes: letters with or without one space
// before; up to three digits, with or without a space; up to six Chinese or Japanese characters; marks, with
// a space before or line ends after; line ends with the indent that follows; blanks. A string that hardly
// ever occurs but inside one longer candidate is left out. Invalid UTF-8 belongs to no candidate. Memory:
// about 20 bytes per byte of text.
std::vector<std::string> find_candidates(const std::vector<WeightedText>& texts, int64_t least_count,
                                         size_t most);

}  // namespace rookery::data
