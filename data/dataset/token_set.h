// token_set.h: a set of tokenised documents on disk, seen as one flat stream and as documents. Files:
// binidx.cpp (.bin/.idx of Megatron and RWKV-LM), hdf5_set.cpp (ours). Writing: token_set_writer.h. How
// training walks through it: data/sampler/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/dataset/input_file.h"

namespace rookery::data {

struct TokenRange {
  int64_t begin = 0, end = 0;  // positions in the flat stream, end excluded
  int64_t size() const { return end - begin; }
};

struct TokenSetInfo {
  fs::path path;                // as given to open_token_set
  std::vector<fs::path> files;  // what lies on disk
  std::string format;           // "binidx" or "hdf5"
  std::string token_type;       // "u16", "u32", "i32", ...
  int64_t num_tokens = 0;       // of the flat stream
  int64_t num_docs = 0;
  int64_t vocab_size = 0;      // 0: the file does not tell
  int32_t eot_id = 0;          // the token that ends each document
  int32_t bos_id = -1;         // the token that begins each document; -1: there is none
  int64_t text_bytes = -1;     // UTF-8 bytes of all documents, for bits per byte; -1: the file does not tell
  std::string tokenizer_name;  // empty: the file does not tell
  std::string tokenizer_sha256;    // empty: the file does not tell
  std::string created_by, source;  // where it comes from, for people
  std::vector<std::string> warnings;
};

// Reading is safe from several threads.
class TokenSet {
 public:
  virtual ~TokenSet() = default;
  TokenSet(const TokenSet&) = delete;
  TokenSet& operator=(const TokenSet&) = delete;

  const TokenSetInfo& info() const { return info_; }
  const fs::path& path() const { return info_.path; }
  int64_t num_tokens() const { return info_.num_tokens; }
  int64_t num_docs() const { return info_.num_docs; }
  int64_t vocab_size() const { return info_.vocab_size; }
  int32_t eot_id() const { return info_.eot_id; }
  const std::string& tokenizer_sha256() const { return info_.tokenizer_sha256; }

  // Tokens [start, start + out.size()) of the flat stream. kData on an id that is negative or above 2^31-1.
  virtual void read(int64_t start, std::span<int32_t> out) const = 0;

  // Where document k lies: one range in all but hand-made .idx files, whose documents may have several
  // pieces.
  virtual std::vector<TokenRange> doc(int64_t k) const = 0;
  std::vector<int32_t> read_doc(int64_t k) const;
  // UTF-8 bytes of document k, -1 where the file does not tell.
  virtual int64_t doc_bytes(int64_t k) const = 0;
  // The document that holds a position of the flat stream; -1 where documents do not lie in order.
  int64_t doc_at(int64_t position) const;
  // starts[i] = 1 where a document begins at position first + i; other entries are left as they are.
  void mark_doc_starts(int64_t first, std::span<uint8_t> starts) const;

  // Throws kData when a file of the set was changed or replaced since it was opened.
  virtual void check_unchanged() const = 0;
  // Reads everything: checksums and what else the format promises. Throws kData at the first fault.
  virtual void verify_checksums() const = 0;

 protected:
  TokenSet() = default;
  // First position of document k, for sets whose documents lie in order.
  virtual int64_t doc_begin(int64_t k) const = 0;
  // Called by the constructor of a set whose documents lie in order: samples doc_begin for doc_at.
  void index_docs();

  TokenSetInfo info_;

 private:
  static constexpr int64_t kDocsPerEntry = 1024;
  std::vector<int64_t> doc_index_;  // doc_begin(0), doc_begin(1024), ...; empty: not in order
};

enum class TokenView {
  kDocuments,  // every document must be readable
  kFlat,       // only the stream matters: bad document pointers are warnings
};

// `path`: an HDF5 token set, or PREFIX, PREFIX.bin or PREFIX.idx. Chosen by content. Throws kNoInput when
// nothing is there, kData with the place, what was found and what was expected when the content is bad. All
// sizes are checked first.
std::unique_ptr<TokenSet> open_token_set(const fs::path& path, TokenView view = TokenView::kDocuments);

// Full scan of a set: every id below vocab_size (0: the set's own, if known), every document ends with eot
// (negative: not asked), checksums. Throws kData with file, document and position at the first fault.
struct VerifyReport {
  int64_t tokens = 0, docs = 0;
  int32_t min_id = 0, max_id = 0;
  bool checksummed = false;
};
VerifyReport verify_token_set(const TokenSet& set, int64_t vocab_size, int32_t eot);

// " (document 12, token 7 of it)" for a position of the flat stream: for messages.
std::string describe_position(const TokenSet& set, int64_t position);

// The elements of a flat token array in a file, whatever their type.
enum class TokenType { kU8, kI16, kI32, kI64, kU16, kU32 };
int64_t bytes_of(TokenType type);
const char* to_string(TokenType type);

class TokenArray {
 public:
  TokenArray() = default;
  TokenArray(const InputFile& file, uint64_t offset, int64_t size, TokenType type)
      : file_(&file), offset_(offset), size_(size), type_(type) {}
  int64_t size() const { return size_; }
  TokenType type() const { return type_; }
  uint64_t offset() const { return offset_; }  // of token 0 in the file, bytes
  void read(int64_t start, std::span<int32_t> out) const;

 private:
  template <class T>
  void read_as(int64_t start, std::span<int32_t> out) const;

  const InputFile* file_ = nullptr;
  uint64_t offset_ = 0;
  int64_t size_ = 0;
  TokenType type_ = TokenType::kU16;
};

// The two readers behind open_token_set.
std::unique_ptr<TokenSet> open_binidx(const fs::path& path, const fs::path& prefix, TokenView view);
std::unique_ptr<TokenSet> open_hdf5_set(const fs::path& path, const fs::path& file);

}  // namespace rookery::data
