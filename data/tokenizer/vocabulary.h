// vocabulary.h: the list of tokens behind a tokenizer, and the text file that holds it (the grammar of the
// RWKV World vocabulary, docs/tokenizer.md). Matching: byte_trie.h. Learning one from text: vocab_trainer.h.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rookery::data {

inline constexpr int32_t kEndOfText = 0;  // never in a file; decodes to nothing
inline constexpr int32_t kMaxTokenId =
    65535;  // ids of a file: 1..kMaxTokenId, so that a token fits in 16 bits
inline constexpr size_t kMaxTokenBytes = 1024;  // of one token (the World vocabulary: 128)
inline constexpr uint64_t kMaxVocabularyFile = uint64_t{64} << 20;

struct VocabEntry {
  int32_t id;
  std::string bytes;  // not empty; any bytes
};

// Reads a vocabulary file's text. A byte order mark and CR LF are accepted; gaps in the ids and any order
// too. Everything else that departs from the grammar throws kData with `name`, the line number, what was
// found and what was expected.
std::vector<VocabEntry> parse_vocabulary(std::string_view text, std::string_view name);

// The file's text: one "ID LITERAL LENGTH" line per entry, in the order given, ended by LF.
std::string format_vocabulary(std::span<const VocabEntry> entries);

// How a token is written in the file: as Python writes a str, or a bytes where it is not valid UTF-8.
std::string token_literal(std::string_view bytes);

}  // namespace rookery::data
