// needle.h: a fact put somewhere in real text, asked for at the end: does the model still know it?
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer.h"
#include "trainer/eval/scorer.h"

namespace rookery::eval {

// Sample number i, everywhere: a fact about a name and five digits, both drawn by i.
struct Needle {
  std::string fact;      // "The secret code of Oslo is 12345."
  std::string question;  // "The secret code of Oslo is"
  std::string answer;    // " 12345"
};
Needle needle(int64_t sample);

// The prompt: an end of text, `filler` with the fact in it on a line of its own, the question on the last
// line; `length` tokens in all. depth: share of the filler before the fact, moved back to the end of a line
// or sentence if one is near. Negative: no fact, for comparison. filler: at least `length` tokens.
std::vector<int32_t> needle_prompt(const data::Tokenizer& tokenizer, const Needle& needle,
                                   std::span<const int32_t> filler, int64_t length, double depth);

struct NeedleCell {
  int64_t length;
  double depth;
  int64_t samples = 0, found = 0;     // found: each token of the answer was the most probable one
  double nats = 0, nats_without = 0;  // sums of -log p of the answer, with the fact and without it
};

// One cell for each length and depth, lengths outermost. Sample i begins at the place i / samples of the
// text. Throws kData EVAL-05 where the text has too few tokens.
std::vector<NeedleCell> find_needles(const data::Tokenizer& tokenizer, std::span<const int32_t> text,
                                     std::span<const int64_t> lengths, std::span<const double> depths,
                                     int64_t samples, Scorer& scorer, std::string_view place);

}  // namespace rookery::eval
