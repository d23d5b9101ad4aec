// vocab_tokenizer.h: the tokenizer of a vocabulary file: greedy longest match from left to right, on bytes,
// with no normalisation and no pre-splitting (so encode(a) + encode(b) may differ from encode(a + b)).
#pragma once

#include <string>
#include <vector>

#include "data/tokenizer/byte_trie.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/vocabulary.h"

namespace rookery::data {

class VocabTokenizer final : public Tokenizer {
 public:
  // `file` is the vocabulary's text (vocabulary.h), `name` stands in messages. Throws kData.
  VocabTokenizer(std::string_view file, std::string name);

  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int32_t> ids) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(spans_.size()); }
  const std::string& sha256() const override { return sha256_; }
  const std::string& name() const override { return name_; }

  std::string_view token(int32_t id) const override;
  int64_t num_tokens() const { return num_tokens_; }
  size_t longest_token() const { return longest_; }
  // Byte values that are not a token of their own: texts that need one cannot be encoded.
  std::vector<int> missing_bytes() const;

 private:
  struct Span {
    uint32_t offset = 0, length = 0;
  };
  VocabTokenizer(std::vector<VocabEntry> entries, std::string sha256, std::string name);

  ByteTrie trie_;
  std::vector<Span> spans_;  // by id, into pool_
  std::string pool_;
  int64_t num_tokens_;
  size_t longest_ = 0;
  std::string sha256_, name_;
};

}  // namespace rookery::data
