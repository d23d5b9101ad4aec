// tokenizer.h: text to token ids and back. World vocabulary files and learned ones share one grammar
// (docs/tokenizer.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rookery::data {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // Any bytes, valid UTF-8 or not.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  // The bytes of the tokens, one after another; id 0 (end of text) is nothing. Throws kData on an id that is
  // not in the vocabulary.
  virtual std::string decode(std::span<const int32_t> ids) const = 0;
  // Largest id + 1: what a model's vocab_size must at least be.
  virtual int32_t vocab_size() const = 0;
  // Identity: SHA-256 of the vocabulary file's bytes, stored in data sets and checkpoints.
  virtual const std::string& sha256() const = 0;
  // File name without folder.
  virtual const std::string& name() const = 0;
};

// Reads a vocabulary file. Throws kNoInput where there is no readable file, kData (VOCAB-nn, with the line)
// where it is not a vocabulary. Single bytes may be missing; encode() then throws on a text that needs one.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

}  // namespace rookery::data
