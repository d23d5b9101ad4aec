// prepare.h: from text files to token sets: `rookery data prepare`. Text: data/text/; files:
// data/dataset/token_set_writer.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/dataset/token_set_writer.h"
#include "data/text/documents.h"
#include "data/tokenizer/tokenizer.h"

namespace rookery::data {

struct PrepareOptions {
  std::vector<std::string> inputs;  // files, folders, globs: text/inputs.h
  fs::path out;                     // token_set_files
  TokenSetFormat format = TokenSetFormat::kHdf5;
  TextOptions text;
  double val_fraction = 0;  // of the documents, chosen by seed and content, into a second set NAME.val
  uint64_t seed = 0;
  bool dedup =
      false;  // of documents with equal bytes only the first is taken; about 60 bytes of memory for each
  int64_t min_tokens = 0;  // shorter documents are passed over, the end token not counted
  int workers = 1;
  bool force = false;                           // replace what is there, forget unfinished work
  uint64_t commit_bytes = uint64_t{256} << 20;  // input between two states that a restart can go on from
  std::string created_by = "rookery";           // kept in the set
};

struct PreparedSet {
  std::vector<fs::path> files;
  std::vector<std::string> sha256;  // of the files
  int64_t docs = 0, tokens = 0, text_bytes = 0;
};

struct PrepareReport {
  std::vector<PreparedSet> sets;  // training, then validation if asked for
  TextCounts skipped;
  int64_t duplicates = 0, too_short = 0;
  int64_t input_bytes = 0, resumed_bytes = 0;  // resumed: done by an earlier process
  double seconds = 0;
  std::vector<std::string> warnings;
};

struct PrepareProgress {
  int64_t bytes = 0, total_bytes = 0;  // of input
  int64_t tokens = 0, docs = 0;
  double seconds = 0;
};

// Each document's tokens and one eot, with a bos in front where the vocabulary has one. The outcome depends
// on inputs, options and tokenizer only, not on workers or interruptions: a killed run leaves OUT.partial/,
// from which the same command goes on. Throws kNoInput, kData (DATA-12 .. 15), kCannotCreate (output exists,
// another run is at work, unfinished work of another command), kIo.
PrepareReport prepare(const PrepareOptions& options, const Tokenizer& tokenizer,
                      const std::function<void(const PrepareProgress&)>& progress = {});

// NAME.h5 -> NAME.val.h5, PREFIX -> PREFIX.val.
fs::path validation_path(const fs::path& out);

}  // namespace rookery::data
