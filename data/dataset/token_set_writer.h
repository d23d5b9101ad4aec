// token_set_writer.h: a token set is staged in flat files, document by document, then published in its format
// in one go: checked first, renamed last, so that a final name never holds a part of a set.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/dataset/token_set.h"

namespace rookery::data {

enum class TokenSetFormat { kHdf5, kBinIdx };
TokenSetFormat token_set_format_from_string(std::string_view name);  // "hdf5" | "binidx"; else kUsage

// The final names: OUT or OUT.h5; PREFIX.bin and PREFIX.idx (`out` may carry one of these suffixes).
std::vector<fs::path> token_set_files(const fs::path& out, TokenSetFormat format);

struct TokenSetMeta {
  std::string tokenizer_name, tokenizer_sha256;  // empty: not known
  int64_t vocab_size = 0;                        // 0: not known
  int32_t eot_id = 0;
  int32_t bos_id = -1;             // that each document begins with; -1: none
  std::string created_by, source;  // for people
  bool wide = false;               // tokens of 32 bits in place of 16
  bool has_doc_bytes = true;       // the documents' UTF-8 bytes are known
};

struct StagePosition {
  int64_t docs = 0, tokens = 0, text_bytes = 0;
};

// Flat files NAME.tokens (u16 or u32) and NAME.docs (for each document: end in tokens, text bytes; u64) in a
// folder. What was synced at a position survives a kill: a new stage at that position goes on from there.
class TokenSetStage {
 public:
  // Cuts what a killed process wrote behind `at`. Throws kData when the files are shorter than that.
  TokenSetStage(const fs::path& folder, const std::string& name, bool wide, StagePosition at = {});
  ~TokenSetStage();

  // A document, its end token included; text_bytes are its UTF-8 bytes.
  void add(std::span<const int32_t> tokens, int64_t text_bytes);
  StagePosition position() const { return position_; }
  void sync();

  // Writes the set under temporary names in the stage's folder, opens and checks it, then renames it to
  // `files` (as token_set_files gave), replacing what is there. Can be called again after a kill.
  void publish(const std::vector<fs::path>& files, TokenSetFormat format, const TokenSetMeta& meta);

 private:
  class Flat;  // a buffered file
  void write_hdf5(const fs::path& file, const TokenSetMeta& meta) const;
  void write_binidx(const fs::path& bin, const fs::path& idx) const;

  fs::path folder_;
  std::string name_;
  bool wide_;
  StagePosition position_;
  std::unique_ptr<Flat> tokens_, docs_;
  std::vector<uint16_t> narrow_;  // reused by add
};

// Copies a set into another format, bit for bit where the format can tell it: tokens, documents, their bytes.
// A missing tokenizer identity may be given. Throws kCannotCreate when `out` exists and not `force`, or is
// the input.
void convert_token_set(const TokenSet& from, const fs::path& out, TokenSetFormat format, TokenSetMeta meta,
                       bool force);

// Throws kCannotCreate (DATA-25) when one of `files` exists and not `force`; always when one of them is an
// input.
void check_outputs(const std::vector<fs::path>& files, const std::vector<fs::path>& inputs, bool force);

}  // namespace rookery::data
