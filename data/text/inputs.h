// inputs.h: which files a list of paths, folders and glob patterns means. Their content: documents.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace rookery::data {

namespace fs = std::filesystem;

enum class TextKind { kJsonLines, kPlain };

struct TextInput {
  fs::path path;
  TextKind kind = TextKind::kPlain;
  uint64_t size = 0;     // bytes
  int64_t mtime_ns = 0;  // of the last change, to notice one
};

struct TextInputs {
  std::vector<TextInput> files;
  std::vector<std::string> warnings;  // files of a folder that were passed over, files named twice
};

// Each pattern is a file, a folder (its .txt, .jsonl, .json and .ndjson files, those of its folders too;
// symbolic links in it are passed over) or a glob. Patterns in the order given, files of one pattern in
// byte-wise order of their paths; a file that several patterns name is taken once. Throws kNoInput: nothing
// matches (with the pattern and the working folder), or not a regular file; kData: a kind of file that is not
// read.
TextInputs collect_inputs(const std::vector<std::string>& patterns);

}  // namespace rookery::data
