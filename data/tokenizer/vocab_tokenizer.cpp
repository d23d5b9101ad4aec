// vocab_tokenizer.cpp: encode and decode over a vocabulary. The inner loop is ByteTrie::longest.
#include "data/tokenizer/vocab_tokenizer.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/base/io.h"

namespace rookery::data {

VocabTokenizer::VocabTokenizer(std::string_view file, std::string name)
    : VocabTokenizer(parse_vocabulary(file, name), io::sha256(file), name) {}

VocabTokenizer::VocabTokenizer(std::vector<VocabEntry> entries, std::string sha256, std::string name)
    : trie_(entries),
      num_tokens_(static_cast<int64_t>(entries.size())),
      sha256_(std::move(sha256)),
      name_(std::move(name)) {
  int32_t last = 0;
  for (const VocabEntry& e : entries) last = std::max(last, e.id);
  spans_.resize(static_cast<size_t>(last) + 1);
  for (const VocabEntry& e : entries) {
    spans_[e.id] = {static_cast<uint32_t>(pool_.size()), static_cast<uint32_t>(e.bytes.size())};
    pool_ += e.bytes;
    longest_ = std::max(longest_, e.bytes.size());
  }
}

std::vector<int32_t> VocabTokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  for (size_t at = 0; at < text.size();) {
    const ByteTrie::Match match = trie_.longest(text.substr(at));
    if (match.id < 0) {
      fail(ExitCode::kData, "VOCAB-08", name_, ": has no token for the byte ",
           static_cast<int>(static_cast<unsigned char>(text[at])), " at offset ", at,
           " of the text. Use a vocabulary that holds all 256 single bytes");
    }
    ids.push_back(match.id);
    at += match.length;
  }
  return ids;
}

std::string_view VocabTokenizer::token(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return std::string_view(pool_).substr(spans_[id].offset, spans_[id].length);
}

std::string VocabTokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string_view bytes = token(ids[i]);
    if (bytes.empty() && ids[i] != kEndOfText) {
      fail(ExitCode::kData, "VOCAB-09", name_, ": id ", ids[i], " at position ", i,
           " is not in the vocabulary (ids 1 to ", vocab_size() - 1,
           "). Use the vocabulary that these tokens were made with");
    }
    text += bytes;
  }
  return text;
}

std::vector<int> VocabTokenizer::missing_bytes() const {
  std::vector<int> missing;
  for (int value = 0; value < 256; ++value) {
    const char byte = static_cast<char>(value);
    if (trie_.longest({&byte, 1}).id < 0) missing.push_back(value);
  }
  return missing;
}

}  // namespace rookery::data
