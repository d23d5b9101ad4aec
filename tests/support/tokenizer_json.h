// tokenizer_json.h: tokenizer.json files for tests: small ones from a list of merges, and that of a published
// vocabulary from its tiktoken file.
#pragma once

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/tokenizer_json.h"

namespace rookery::test {

using Merges = std::vector<std::pair<std::string, std::string>>;  // of bytes

inline nlohmann::json added_token(int id, const std::string& content, bool special, bool normalized) {
  return {{"id", id},        {"content", content},       {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", normalized}, {"special", special}};
}

// As Hugging Face writes Qwen2's: NFC, the given pattern, <|endoftext|> after the tokens.
inline nlohmann::json bpe_json(data::SplitPattern split, const std::vector<std::string>& tokens,
                               const Merges& merges) {
  using Json = nlohmann::json;
  Json vocab = Json::object(), pairs = Json::array();
  for (const std::string& token : tokens) {
    const size_t id = vocab.size();
    vocab[data::to_byte_chars(token)] = id;
  }
  for (const auto& [left, right] : merges)
    pairs.push_back(data::to_byte_chars(left) + " " + data::to_byte_chars(right));
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens",
           Json::array({added_token(static_cast<int>(tokens.size()), "<|endoftext|>", true, false)})},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer",
           {{"type", "Sequence"},
            {"pretokenizers", Json::array({{{"type", "Split"},
                                            {"pattern", {{"Regex", data::regex_of(split)}}},
                                            {"behavior", "Isolated"},
                                            {"invert", false}},
                                           {{"type", "ByteLevel"},
                                            {"add_prefix_space", false},
                                            {"trim_offsets", false},
                                            {"use_regex", false}}})}}},
          {"post_processor", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", ""},
            {"end_of_word_suffix", ""},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", pairs}}}};
}

// The single bytes in their order, then what the merges make.
inline nlohmann::json bpe_json(data::SplitPattern split, const Merges& merges) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  for (const auto& [left, right] : merges)
    if (std::find(tokens.begin(), tokens.end(), left + right) == tokens.end()) tokens.push_back(left + right);
  return bpe_json(split, tokens, merges);
}

// A tiktoken file has lines of `base64 rank` and no merges: the merge of a token is what its bytes are merged
// to by the tokens of lower rank, which leaves two parts.
inline std::string tokenizer_json_of_tiktoken(const std::string& path, data::SplitPattern split) {
  std::ifstream in(path);
  std::vector<std::string> tokens;
  std::unordered_map<std::string, int> rank_of;
  for (std::string line; std::getline(in, line);) {
    const std::string code = line.substr(0, line.find(' '));
    std::string bytes;
    unsigned bits = 0;
    int held = 0;
    for (const char c : code.substr(0, code.find('='))) {
      static const std::string kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
      bits = bits << 6 | static_cast<unsigned>(kAlphabet.find(c));
      if ((held += 6) >= 8) bytes += static_cast<char>(bits >> (held -= 8));
    }
    rank_of.emplace(bytes, static_cast<int>(tokens.size()));
    tokens.push_back(bytes);
  }
  Merges merges;
  for (size_t rank = 0; rank < tokens.size(); ++rank) {
    if (tokens[rank].size() == 1) continue;
    std::vector<std::string> parts;
    for (const char c : tokens[rank]) parts.emplace_back(1, c);
    while (parts.size() > 2) {
      size_t best = 0;
      int lowest = static_cast<int>(rank);
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto found = rank_of.find(parts[i] + parts[i + 1]);
        if (found != rank_of.end() && found->second < lowest) lowest = found->second, best = i;
      }
      if (lowest == static_cast<int>(rank)) break;
      parts[best] += parts[best + 1];
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    if (parts.size() == 2) merges.emplace_back(parts[0], parts[1]);
  }
  return bpe_json(split, tokens, merges).dump();
}

}  // namespace rookery::test
