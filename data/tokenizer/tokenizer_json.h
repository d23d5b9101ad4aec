// tokenizer_json.h: reader of Hugging Face's `tokenizer.json`, as far as it describes byte-level BPE
// (GPT-NeoX, Llama-3, Qwen2.5). What it says is understood exactly or refused by name. Encoding:
// bpe_tokenizer.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/split.h"
#include "data/tokenizer/vocabulary.h"

namespace rookery::data {

inline constexpr int32_t kMaxBpeId = (1 << 22) - 1;  // some tables are as long as the largest id

// A token that is found in the text before anything else happens to it.
struct AddedToken {
  int32_t id;
  std::string content;
  bool special;     // steers a model (<|endoftext|>): in ordinary text it is only text
  bool normalized;  // looked for after the normalisation of the text, else before
};

struct BpeMerge {
  int32_t left, right, merged;  // ids
};

struct BpeModel {
  std::vector<VocabEntry> tokens;  // ids and tokens differ, all 256 single bytes are there
  std::vector<BpeMerge> merges;    // the first is applied first
  std::vector<AddedToken> added;   // those that are in `tokens`, too, have the same id and bytes there
  bool nfc = false;
  bool ignore_merges = false;  // a piece that is a token is that token, whatever the merges make of it
  SplitPattern split = SplitPattern::kGpt2;
};

// Time and memory grow with the file, never with a number in it. Throws kData with `name`: BPE-01 not JSON of
// this form, BPE-02 something unsupported, BPE-03 vocabulary, BPE-04 merges, BPE-05 added tokens.
BpeModel parse_tokenizer_json(std::string_view file, std::string_view name);

// A token as `tokenizer.json` writes it: each byte as one printable character.
std::string to_byte_chars(std::string_view bytes);

}  // namespace rookery::data
