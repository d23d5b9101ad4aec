// token_set_writer.cpp: flat stage files, and the two formats made from them in constant memory.
#include "data/dataset/token_set_writer.h"

#include <algorithm>
#include <array>
#include <limits>

#include "data/dataset/hdf5_layout.h"
#include "data/hdf5/hdf5.h"
#include "kernels/base/error.h"
#include "kernels/base/io.h"

namespace rookery::data {

namespace {

constexpr const char* kPoint = "data.tokens";

template <class T>
std::span<const std::byte> bytes_of_vector(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

}  // namespace

TokenSetFormat token_set_format_from_string(std::string_view name) {
  if (name == "hdf5") return TokenSetFormat::kHdf5;
  if (name == "binidx") return TokenSetFormat::kBinIdx;
  fail(ExitCode::kUsage, "", "format is '", name, "', expected hdf5 or binidx");
}

std::vector<fs::path> token_set_files(const fs::path& out, TokenSetFormat format) {
  const std::string suffix = out.extension().native();
  if (format == TokenSetFormat::kHdf5)
    return {suffix == ".h5" || suffix == ".hdf5" ? out : fs::path(out.native() + ".h5")};
  fs::path prefix = out;
  if (suffix == ".bin" || suffix == ".idx") prefix.replace_extension();
  return {prefix.native() + ".bin", prefix.native() + ".idx"};
}

void check_outputs(const std::vector<fs::path>& files, const std::vector<fs::path>& inputs, bool force) {
  for (const fs::path& file : files) {
    std::error_code ignored;
    for (const fs::path& input : inputs)
      if (fs::equivalent(file, input, ignored))
        fail(ExitCode::kCannotCreate, "DATA-25", file.native(),
             ": is both input and output, expected another --out");
    if (!force && fs::exists(fs::symlink_status(file)))
      fail(ExitCode::kCannotCreate, "DATA-25", file.native(),
           ": exists already, expected a new name: use --force to replace it");
  }
}

// Appends through a buffer.
class TokenSetStage::Flat {
 public:
  Flat(const fs::path& path, uint64_t keep) : file_(path, kPoint, io::OutputFile::Mode::kAppend) {
    if (file_.size() < keep)
      fail(ExitCode::kData, "DATA-19", path.native(), ": holds ", file_.size(), " bytes, expected at least ",
           keep, ": the unfinished work is damaged; use --force to begin anew");
    file_.truncate(keep);
  }
  void append(std::span<const std::byte> bytes) {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    if (buffer_.size() >= kBufferBytes) flush();
  }
  void flush() {
    file_.write(buffer_);
    buffer_.clear();
  }
  void sync() {
    flush();
    file_.sync();
  }
  const fs::path& path() const { return file_.path(); }

 private:
  static constexpr size_t kBufferBytes = 1 << 20;
  io::OutputFile file_;
  std::vector<std::byte> buffer_;
};

TokenSetStage::TokenSetStage(const fs::path& folder, const std::string& name, bool wide, StagePosition at)
    : folder_(folder),
      name_(name),
      wide_(wide),
      position_(at),
      tokens_(std::make_unique<Flat>(folder / (name + ".tokens"),
                                     static_cast<uint64_t>(at.tokens) * (wide ? 4 : 2))),
      docs_(std::make_unique<Flat>(folder / (name + ".docs"), static_cast<uint64_t>(at.docs) * 16)) {}

TokenSetStage::~TokenSetStage() = default;

void TokenSetStage::add(std::span<const int32_t> tokens, int64_t text_bytes) {
  if (wide_) {
    tokens_->append(std::as_bytes(tokens));
  } else {
    narrow_.resize(tokens.size());
    int32_t all = 0;  // negative ids have high bits too
    for (size_t i = 0; i < tokens.size(); ++i) {
      all |= tokens[i];
      narrow_[i] = static_cast<uint16_t>(tokens[i]);
    }
    RK_CHECK(all >= 0 && all <= std::numeric_limits<uint16_t>::max(),
             "[TokenSetStage] a token does not fit 16 bits");
    tokens_->append(std::as_bytes(std::span(narrow_)));
  }
  position_.tokens += static_cast<int64_t>(tokens.size());
  position_.docs += 1;
  position_.text_bytes += text_bytes;
  const std::array<uint64_t, 2> row = {static_cast<uint64_t>(position_.tokens),
                                       static_cast<uint64_t>(text_bytes)};
  docs_->append(std::as_bytes(std::span(row)));
}

void TokenSetStage::sync() {
  tokens_->sync();
  docs_->sync();
}

void TokenSetStage::write_hdf5(const fs::path& file, const TokenSetMeta& meta) const {
  h5::Writer out(file, kPoint, h5::Writer::Place::kFinal);
  const uint64_t tokens = static_cast<uint64_t>(position_.tokens),
                 docs = static_cast<uint64_t>(position_.docs);
  out.attribute("/", "format", std::string_view(hdf5_layout::kFormat));
  out.attribute("/", "format_version", hdf5_layout::kVersion);
  out.attribute("/", "tokenizer_name", std::string_view(meta.tokenizer_name));
  out.attribute("/", "tokenizer_sha256", std::string_view(meta.tokenizer_sha256));
  out.attribute("/", "vocab_size", static_cast<uint32_t>(meta.vocab_size));
  out.attribute("/", "eot_id", static_cast<uint32_t>(meta.eot_id));
  if (meta.bos_id >= 0) out.attribute("/", "bos_id", static_cast<uint32_t>(meta.bos_id));
  out.attribute("/", "created_by", std::string_view(meta.created_by));
  out.attribute("/", "source", std::string_view(meta.source));
  if (meta.has_doc_bytes) out.attribute("/", "text_bytes", static_cast<uint64_t>(position_.text_bytes));

  const InputFile staged(tokens_->path());
  const uint64_t item = wide_ ? 4 : 2;
  out.dataset("/tokens", wide_ ? h5::Type::kU32 : h5::Type::kU16, {tokens});
  std::vector<uint32_t> checksums;
  std::vector<std::byte> block;
  for (uint64_t begin = 0; begin < tokens; begin += hdf5_layout::kChecksumTokens) {
    block.resize(std::min(hdf5_layout::kChecksumTokens, tokens - begin) * item);
    staged.read_at(begin * item, block);
    checksums.push_back(io::crc32c(block));
    out.append("/tokens", block);
  }
  out.dataset("/checksums", std::span<const uint32_t>(checksums));

  const InputFile documents(docs_->path());
  const FileArray<uint64_t> rows(documents, 0, position_.docs * 2);
  out.dataset("/doc_offsets", h5::Type::kU64, {docs + 1});
  if (meta.has_doc_bytes) out.dataset("/meta/doc_bytes", h5::Type::kU64, {docs});
  uint32_t ends_checksum = 0, bytes_checksum = 0;
  auto append = [&](const char* name, const std::vector<uint64_t>& values, uint32_t& checksum) {
    out.append(name, bytes_of_vector(values));
    checksum = io::crc32c(bytes_of_vector(values), checksum);
  };
  append("/doc_offsets", {0}, ends_checksum);
  std::vector<uint64_t> ends, bytes;
  rows.for_each_block([&](int64_t, std::span<const uint64_t> values) {
    ends.clear();
    bytes.clear();
    for (size_t i = 0; i < values.size(); i += 2) {
      ends.push_back(values[i]);
      bytes.push_back(values[i + 1]);
    }
    append("/doc_offsets", ends, ends_checksum);
    if (meta.has_doc_bytes) append("/meta/doc_bytes", bytes, bytes_checksum);
  });
  out.attribute("/", "doc_offsets_crc32c", ends_checksum);
  if (meta.has_doc_bytes) out.attribute("/", "doc_bytes_crc32c", bytes_checksum);
  out.close();
}

void TokenSetStage::write_binidx(const fs::path& bin, const fs::path& idx) const {
  io::OutputFile data(bin, kPoint, io::OutputFile::Mode::kTruncate);
  const InputFile staged(tokens_->path());
  std::vector<std::byte> block;
  for (uint64_t begin = 0; begin < staged.size(); begin += block.size()) {
    block.resize(std::min<uint64_t>(1 << 21, staged.size() - begin));
    staged.read_at(begin, block);
    data.write(block);
  }
  data.sync();
  data.close();

  io::OutputFile index(idx, kPoint, io::OutputFile::Mode::kTruncate);
  std::string header("MMIDIDX\0\0", 9);
  auto put = [&](auto value) { header.append(reinterpret_cast<const char*>(&value), sizeof value); };
  put(uint64_t{1});  // version
  put(static_cast<uint8_t>(wide_ ? 4 : 8));
  put(static_cast<uint64_t>(position_.docs));
  put(static_cast<uint64_t>(position_.docs) + 1);
  index.write(header);
  const InputFile documents(docs_->path());
  const FileArray<uint64_t> rows(documents, 0, position_.docs * 2);
  // Three passes: lengths, starts in bytes, document index. `make` gives a document's entry from its begin
  // and end in tokens.
  auto pass = [&]<class T>(auto make) {
    std::vector<T> values;
    uint64_t begin = 0;
    rows.for_each_block([&](int64_t, std::span<const uint64_t> row) {
      values.clear();
      for (size_t i = 0; i < row.size(); i += 2) {
        values.push_back(make(begin, row[i]));
        begin = row[i];
      }
      index.write(bytes_of_vector(values));
    });
  };
  pass.template operator()<int32_t>([&](uint64_t begin, uint64_t end) {
    if (end - begin > static_cast<uint64_t>(std::numeric_limits<int32_t>::max()))
      fail(ExitCode::kData, "DATA-02", idx.native(), ": a document has ", end - begin,
           " tokens, expected at most 2147483647 in this format: use --format hdf5");
    return static_cast<int32_t>(end - begin);
  });
  pass.template operator()<int64_t>(
      [&](uint64_t begin, uint64_t) { return static_cast<int64_t>(begin * (wide_ ? 4 : 2)); });
  int64_t k = 0;
  index.write(std::string_view("\0\0\0\0\0\0\0\0", 8));  // document 0 begins at sequence 0
  pass.template operator()<int64_t>([&](uint64_t, uint64_t) { return ++k; });
  index.sync();
  index.close();
}

void TokenSetStage::publish(const std::vector<fs::path>& files, TokenSetFormat format,
                            const TokenSetMeta& meta) {
  sync();
  std::vector<fs::path> temporary;
  for (const fs::path& file : files) {
    temporary.push_back(folder_ / (name_ + ".new" + file.extension().native()));
    if (fs::exists(temporary.back())) io::remove(temporary.back(), kPoint);
  }
  if (format == TokenSetFormat::kHdf5)
    write_hdf5(temporary[0], meta);
  else
    write_binidx(temporary[0], temporary[1]);
  const auto written = open_token_set(temporary[0]);
  written->verify_checksums();
  RK_CHECK(written->num_tokens() == position_.tokens && written->num_docs() == position_.docs,
           "[TokenSetStage] ", temporary[0].native(), " holds ", written->num_tokens(), " tokens in ",
           written->num_docs(), " documents, expected ", position_.tokens, " in ", position_.docs);
  // An old .idx goes first and the new one comes last: whoever finds an .idx finds its .bin.
  if (files.size() > 1 && fs::exists(files.back())) io::remove(files.back(), kPoint);
  for (size_t i = 0; i < files.size(); ++i) io::rename(temporary[i], files[i], kPoint);
}

void convert_token_set(const TokenSet& from, const fs::path& out, TokenSetFormat format, TokenSetMeta meta,
                       bool force) {
  const auto files = token_set_files(out, format);
  check_outputs(files, from.info().files, force);
  const fs::path folder = files[0].native() + ".partial";
  if (fs::exists(folder)) io::remove_all(folder, kPoint);
  if (files[0].has_parent_path()) io::create_directories(files[0].parent_path());
  io::create_directories(folder);
  const TokenSetInfo& info = from.info();
  if (meta.tokenizer_sha256.empty()) {
    meta.tokenizer_name = info.tokenizer_name;
    meta.tokenizer_sha256 = info.tokenizer_sha256;
    meta.vocab_size = info.vocab_size;
    meta.eot_id = info.eot_id;
  }
  meta.bos_id = info.bos_id;
  meta.source = info.source.empty() ? info.path.filename().native() : info.source;
  meta.wide = info.token_type != "u16" && info.token_type != "u8" && info.token_type != "i16";
  meta.has_doc_bytes = info.text_bytes >= 0;
  try {
    TokenSetStage stage(folder, "set", meta.wide);
    for (int64_t k = 0; k < from.num_docs(); ++k)
      stage.add(from.read_doc(k), std::max<int64_t>(0, from.doc_bytes(k)));
    stage.publish(files, format, meta);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    throw;
  }
  io::remove_all(folder, kPoint);
}

}  // namespace rookery::data
