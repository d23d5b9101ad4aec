// bpe_tokenizer.h: byte-level BPE as `tokenizer.json` describes it (tokenizer_json.h): added tokens are cut
// out, the rest is normalised and split into words (split.h), and in each word the bytes are merged pair by
// pair, lowest rank first.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/byte_trie.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/tokenizer_json.h"

namespace rookery::data {

class BpeTokenizer final : public Tokenizer {
 public:
  // `file` is the text of a tokenizer.json, `name` stands in messages. Throws kData (BPE-01 .. 06).
  BpeTokenizer(std::string_view file, std::string name);

  std::vector<int32_t> encode(std::string_view text) const override { return encode(text, false); }
  std::vector<int32_t> encode_prompt(std::string_view text) const override { return encode(text, true); }
  std::string decode(std::span<const int32_t> ids) const override;
  std::string_view token(int32_t id) const override;
  std::string normalise(std::string_view text) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(spans_.size()); }
  int32_t eot_id() const override { return eot_id_; }
  int32_t bos_id() const override { return bos_id_; }
  const std::string& sha256() const override { return sha256_; }
  const std::string& name() const override { return name_; }

 private:
  struct Span {
    uint32_t offset = 0, length = 0;
  };
  // What a pair of neighbours becomes.
  struct Merged {
    int32_t rank = -1, id = -1;  // rank -1: nothing
  };
  // Open addressing over (left, right): a lookup for each pair of neighbours is what encoding costs.
  class MergeTable {
   public:
    explicit MergeTable(std::span<const BpeMerge> merges);
    Merged find(int32_t left, int32_t right) const;

   private:
    struct Slot {
      uint64_t pair = 0;
      Merged merged;
    };
    static uint64_t pair_of(int32_t left, int32_t right) {
      return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
    }
    size_t home(uint64_t pair) const { return (pair * 0x9E3779B97F4A7C15u) >> shift_; }
    std::vector<Slot> slots_;
    int shift_ = 0;
  };
  struct Scratch;  // memory of one encode

  BpeTokenizer(const BpeModel& model, std::string sha256, std::string name);
  std::vector<int32_t> encode(std::string_view text, bool take_special) const;
  template <class Found, class Between>
  void cut_added(const ByteTrie& trie, std::string_view text, bool take_special, Found&& found,
                 Between&& between) const;
  // The text in parts, in order: token(id) for each added token, words(normalised text) for the rest.
  template <class Token, class Words>
  void walk(std::string_view text, bool take_special, Token&& token, Words&& words) const;
  void encode_words(std::string_view text, Scratch& scratch, std::vector<int32_t>& ids) const;
  void merge(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;

  bool nfc_, ignore_merges_;
  SplitPattern split_;
  std::string pool_;
  std::vector<Span> spans_;                              // by id, into pool_
  std::unordered_map<std::string_view, int32_t> words_;  // tokens of the vocabulary, not the added ones
  int32_t byte_ids_[256] = {};
  MergeTable merges_;
  ByteTrie added_raw_, added_normalised_;  // looked for before and after the normalisation
  std::vector<bool> is_special_;           // by id
  // Of the words that are tokens: whether their merges end in that token. Found out at first use.
  enum Whole : uint8_t { kUnknown, kWhole, kParts };
  std::unique_ptr<std::atomic<Whole>[]> whole_;  // by id
  int32_t eot_id_ = -1, bos_id_ = -1;
  std::string sha256_, name_;
};

}  // namespace rookery::data
