// split.h: how byte-level BPE cuts a text into pieces before it merges: the published patterns, each matched
// by hand in linear time. Classes of characters: unicode.h.
#pragma once

#include <optional>
#include <string_view>

namespace rookery::data {

enum class SplitPattern {
  kGpt2,    // GPT-2, GPT-NeoX; and `ByteLevel` with use_regex
  kLlama3,  // numbers by up to three digits
  kQwen2,   // Qwen2, Qwen2.5: each digit alone
};

// The pattern as tokenizer.json writes it. One that differs in a single character is another pattern.
std::string_view regex_of(SplitPattern pattern);
std::optional<SplitPattern> split_pattern_of(std::string_view regex);

// Bytes of the piece that `text`, which must not be empty, begins with: what the pattern matches at its
// start. Each of the patterns matches something everywhere. Ill-formed UTF-8 counts as a character of no
// class.
size_t piece_length(SplitPattern pattern, std::string_view text);

}  // namespace rookery::data
