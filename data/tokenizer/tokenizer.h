// tokenizer.h: text to token ids and back. Two kinds of file: vocabularies for greedy longest match (RWKV
// World and learned ones: vocab_tokenizer.h) and byte-level BPE (bpe_tokenizer.h). docs/tokenizer.md
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
  // Any bytes, valid UTF-8 or not. Safe from several threads.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  // As encode(), but what the text spells as a special token ("<|im_start|>") becomes that token: for
  // prompts, never for data.
  virtual std::vector<int32_t> encode_prompt(std::string_view text) const { return encode(text); }
  // The bytes of the tokens, one after another; special tokens as they are spelled, id 0 of a vocabulary file
  // (end of text) as nothing. Throws kData on an id that is not in the vocabulary.
  virtual std::string decode(std::span<const int32_t> ids) const = 0;
  // The bytes of one token; empty where decode() would give nothing or throw.
  virtual std::string_view token(int32_t id) const = 0;
  // What decode(encode(text)) gives back: the text, or its Unicode normal form where the vocabulary asks for
  // it.
  virtual std::string normalise(std::string_view text) const { return std::string(text); }
  // Largest id + 1: what a model's vocab_size must at least be.
  virtual int32_t vocab_size() const = 0;
  // The token that ends a document, and the one that a text starts from: the same, but for Llama-3.
  virtual int32_t eot_id() const { return 0; }
  virtual int32_t bos_id() const { return eot_id(); }
  // Identity: SHA-256 of the vocabulary file's bytes, stored in data sets and checkpoints.
  virtual const std::string& sha256() const = 0;
  // File name without folder.
  virtual const std::string& name() const = 0;
};

// Reads a vocabulary file or a tokenizer.json, told apart by their first character. Throws kNoInput where
// there is no readable file, kData (VOCAB-nn with the line, BPE-nn) where it is neither. In a vocabulary file
// single bytes may be missing; encode() then throws on a text that needs one.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

}  // namespace rookery::data
