// hdf5_set.cpp: the reader of HDF5 token sets. The library checks the file and tells where the arrays lie;
// they are then read as plain bytes, by any thread.
#include <algorithm>

#include "data/dataset/hdf5_layout.h"
#include "data/dataset/token_set.h"
#include "data/hdf5/hdf5.h"
#include "kernels/base/error.h"
#include "kernels/base/io.h"

namespace rookery::data {

namespace {

class Hdf5Set final : public TokenSet {
 public:
  Hdf5Set(const fs::path& path, const fs::path& file) : file_(file) {
    const h5::Reader reader(file);
    info_.path = path;
    info_.files = {file};
    info_.format = "hdf5";
    read_attributes(reader);
    const auto& tokens = array(reader, "/tokens");
    if (tokens.type != h5::Type::kU16 && tokens.type != h5::Type::kU32)
      fail(ExitCode::kData, "DATA-18", file.native(), ": /tokens holds ", to_string(tokens.type),
           ", expected u16 or u32");
    tokens_ = TokenArray(file_, *tokens.offset, static_cast<int64_t>(tokens.numel),
                         tokens.type == h5::Type::kU16 ? TokenType::kU16 : TokenType::kU32);
    info_.token_type = to_string(tokens_.type());
    info_.num_tokens = tokens_.size();
    checksums_ = typed_array<uint32_t>(reader, "/checksums");
    const int64_t blocks = (num_tokens() + kBlock - 1) / kBlock;
    if (checksums_.size() != blocks)
      fail(ExitCode::kData, "DATA-18", file.native(), ": /checksums holds ", checksums_.size(),
           " values, expected ", blocks, " for ", num_tokens(), " tokens");
    offsets_ = typed_array<uint64_t>(reader, "/doc_offsets");
    check_offsets();
    check_array(reader, offsets_, "/doc_offsets", "doc_offsets_crc32c");
    if (info_.text_bytes >= 0) {
      doc_bytes_ = typed_array<uint64_t>(reader, "/meta/doc_bytes");
      if (doc_bytes_.size() != num_docs())
        fail(ExitCode::kData, "DATA-18", file.native(), ": /meta/doc_bytes holds ", doc_bytes_.size(),
             " values, expected ", num_docs(), " (one for each document)");
      check_array(reader, doc_bytes_, "/meta/doc_bytes", "doc_bytes_crc32c");
    }
    if (num_docs() > 0) index_docs();
    // A look at the begin, middle and end, so that most damage shows at the start; verify_checksums looks at
    // everything.
    for (int64_t block : {int64_t{0}, blocks / 2, blocks - 1})
      if (block >= 0 && block < blocks) check_block(block);
  }

  void read(int64_t start, std::span<int32_t> out) const override { tokens_.read(start, out); }
  std::vector<TokenRange> doc(int64_t k) const override {
    RK_CHECK(k >= 0 && k < num_docs(), "[TokenSet] document ", k, " of ", num_docs());
    std::array<uint64_t, 2> range;
    offsets_.read(k, range);
    return {{static_cast<int64_t>(range[0]), static_cast<int64_t>(range[1])}};
  }
  int64_t doc_bytes(int64_t k) const override {
    return info_.text_bytes < 0 ? -1 : static_cast<int64_t>(doc_bytes_[k]);
  }
  void check_unchanged() const override { file_.check_unchanged(); }
  void verify_checksums() const override {
    for (int64_t block = 0; block < checksums_.size(); ++block) check_block(block);
  }

 protected:
  int64_t doc_begin(int64_t k) const override { return static_cast<int64_t>(offsets_[k]); }

 private:
  static constexpr int64_t kBlock = static_cast<int64_t>(hdf5_layout::kChecksumTokens);

  void read_attributes(const h5::Reader& reader) {
    if (!reader.has_attribute("/", "format") || reader.text("/", "format") != hdf5_layout::kFormat)
      fail(ExitCode::kData, "DATA-18", file_.path().native(),
           ": is HDF5, but no token set: attribute 'format' is ",
           reader.has_attribute("/", "format") ? "'" + reader.text("/", "format") + "'" : "missing",
           ", expected '", hdf5_layout::kFormat, "'");
    if (uint64_t version = reader.number("/", "format_version"); version != hdf5_layout::kVersion)
      fail(ExitCode::kData, "DATA-18", file_.path().native(), ": has format version ", version, ", expected ",
           hdf5_layout::kVersion, ": it was written by a newer program");
    info_.tokenizer_name = reader.text("/", "tokenizer_name");
    info_.tokenizer_sha256 = reader.text("/", "tokenizer_sha256");
    info_.vocab_size = small_number(reader, "vocab_size");
    info_.eot_id = static_cast<int32_t>(small_number(reader, "eot_id"));
    if (reader.has_attribute("/", "bos_id"))
      info_.bos_id = static_cast<int32_t>(small_number(reader, "bos_id"));
    info_.created_by = reader.text("/", "created_by");
    info_.source = reader.text("/", "source");
    if (reader.has_attribute("/", "text_bytes"))
      info_.text_bytes = static_cast<int64_t>(reader.number("/", "text_bytes") & INT64_MAX);
  }
  int64_t small_number(const h5::Reader& reader, const char* name) const {
    const uint64_t value = reader.number("/", name);
    if (value > INT32_MAX)
      fail(ExitCode::kData, "DATA-18", file_.path().native(), ": attribute '", name, "' is ", value,
           ", expected at most ", INT32_MAX);
    return static_cast<int64_t>(value);
  }

  // A contiguous data set of one axis; the reader has compared its size with the file's.
  const h5::DatasetInfo& array(const h5::Reader& reader, const char* name) const {
    const h5::DatasetInfo& info = reader.info(name);
    if (info.shape.size() != 1 || !info.offset || info.is_text)
      fail(ExitCode::kData, "DATA-18", file_.path().native(), ": ", name, " has ", info.shape.size(),
           " axes and is ", info.offset ? "contiguous" : "not contiguous",
           ", expected one contiguous axis of numbers");
    return info;
  }
  template <class T>
  FileArray<T> typed_array(const h5::Reader& reader, const char* name) const {
    const h5::DatasetInfo& info = array(reader, name);
    if (info.type != h5::type_of<T>())
      fail(ExitCode::kData, "DATA-18", file_.path().native(), ": ", name, " holds ", to_string(info.type),
           ", expected ", to_string(h5::type_of<T>()));
    return {file_, *info.offset, static_cast<int64_t>(info.numel)};
  }

  void check_offsets() {
    if (offsets_.size() == 0)
      fail(ExitCode::kData, "DATA-18", file_.path().native(),
           ": /doc_offsets is empty, expected documents + 1 values");
    uint64_t previous = 0;
    offsets_.for_each_block([&](int64_t first, std::span<const uint64_t> block) {
      for (size_t i = 0; i < block.size(); ++i) {
        const int64_t k = first + static_cast<int64_t>(i);
        if (k == 0 ? block[i] != 0 : block[i] < previous)
          fail(ExitCode::kData, "DATA-18", file_.path().native(), ": /doc_offsets[", k, "] is ", block[i],
               ", expected ", k == 0 ? "0" : str("at least ", previous));
        previous = block[i];
      }
    });
    if (previous != static_cast<uint64_t>(num_tokens()))
      fail(ExitCode::kData, "DATA-18", file_.path().native(), ": /doc_offsets ends at ", previous,
           ", expected the ", num_tokens(), " tokens of /tokens");
    info_.num_docs = offsets_.size() - 1;
  }

  // The documents' arrays carry a checksum each; files of other writers may lack it.
  void check_array(const h5::Reader& reader, const FileArray<uint64_t>& values, const char* name,
                   const char* attribute) const {
    if (!reader.has_attribute("/", attribute)) return;
    uint32_t found = 0;
    values.for_each_block(
        [&](int64_t, std::span<const uint64_t> block) { found = io::crc32c(std::as_bytes(block), found); });
    if (const uint64_t expected = reader.number("/", attribute); found != expected)
      fail(ExitCode::kData, "DATA-18", file_.path().native(), ": ", name, " has checksum ", found,
           ", expected ", expected, ": the file was damaged; copy or prepare it again");
  }

  void check_block(int64_t block) const {
    const int64_t begin = block * kBlock, count = std::min(kBlock, num_tokens() - begin);
    const int64_t item = data::bytes_of(tokens_.type());
    std::vector<std::byte> bytes(static_cast<size_t>(count * item));
    file_.read_at(tokens_.offset() + static_cast<uint64_t>(begin * item), bytes);
    if (const uint32_t found = io::crc32c(bytes), expected = checksums_[block]; found != expected)
      fail(ExitCode::kData, "DATA-18", file_.path().native(), ": tokens ", begin, " to ", begin + count - 1,
           " have checksum ", found, ", expected ", expected,
           ": the file was damaged; copy or prepare it again");
  }

  InputFile file_;
  TokenArray tokens_;
  FileArray<uint32_t> checksums_;
  FileArray<uint64_t> offsets_, doc_bytes_;
};

}  // namespace

std::unique_ptr<TokenSet> open_hdf5_set(const fs::path& path, const fs::path& file) {
  return std::make_unique<Hdf5Set>(path, file);
}

}  // namespace rookery::data
