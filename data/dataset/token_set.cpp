// token_set.cpp: what all token sets share: element types, the search for documents, the choice of a reader,
// the full scan.
#include "data/dataset/token_set.h"

#include <algorithm>
#include <array>
#include <limits>

#include "kernels/base/error.h"

namespace rookery::data {

int64_t bytes_of(TokenType type) {
  switch (type) {
    case TokenType::kU8:
      return 1;
    case TokenType::kI16:
    case TokenType::kU16:
      return 2;
    case TokenType::kI32:
    case TokenType::kU32:
      return 4;
    case TokenType::kI64:
      return 8;
  }
  return 0;
}

const char* to_string(TokenType type) {
  constexpr std::array<const char*, 6> kNames = {"u8", "i16", "i32", "i64", "u16", "u32"};
  return kNames[static_cast<size_t>(type)];
}

template <class T>
void TokenArray::read_as(int64_t start, std::span<int32_t> out) const {
  std::array<T, 8192> block;
  for (size_t done = 0; done < out.size();) {
    auto part = std::span(block).first(std::min(block.size(), out.size() - done));
    int64_t first = start + static_cast<int64_t>(done);
    file_->read_at(offset_ + static_cast<uint64_t>(first) * sizeof(T), std::as_writable_bytes(part));
    bool valid = true;
    for (size_t i = 0; i < part.size(); ++i) {
      int64_t id = static_cast<int64_t>(part[i]);
      valid &= id >= 0 && id <= std::numeric_limits<int32_t>::max();
      out[done + i] = static_cast<int32_t>(id);
    }
    if (!valid) [[unlikely]] {
      for (size_t i = 0; i < part.size(); ++i) {
        int64_t id = static_cast<int64_t>(part[i]);
        if (id < 0 || id > std::numeric_limits<int32_t>::max())
          fail(ExitCode::kData, "DATA-06", file_->path().native(), ": token ",
               first + static_cast<int64_t>(i), " is ", id, ", expected 0 to 2147483647");
      }
    }
    done += part.size();
  }
}

void TokenArray::read(int64_t start, std::span<int32_t> out) const {
  RK_CHECK(start >= 0 && start <= size_ && static_cast<int64_t>(out.size()) <= size_ - start,
           "[TokenArray] tokens ", start, " to ", start + static_cast<int64_t>(out.size()), " asked of ",
           size_);
  switch (type_) {
    case TokenType::kU8:
      return read_as<uint8_t>(start, out);
    case TokenType::kI16:
      return read_as<int16_t>(start, out);
    case TokenType::kI32:
      return read_as<int32_t>(start, out);
    case TokenType::kI64:
      return read_as<int64_t>(start, out);
    case TokenType::kU16:
      return read_as<uint16_t>(start, out);
    case TokenType::kU32:
      return read_as<uint32_t>(start, out);
  }
}

std::vector<int32_t> TokenSet::read_doc(int64_t k) const {
  std::vector<int32_t> tokens;
  for (const TokenRange& range : doc(k)) {
    size_t have = tokens.size();
    tokens.resize(have + static_cast<size_t>(range.size()));
    read(range.begin, std::span(tokens).subspan(have));
  }
  return tokens;
}

void TokenSet::index_docs() {
  doc_index_.clear();
  for (int64_t k = 0; k < num_docs(); k += kDocsPerEntry) doc_index_.push_back(doc_begin(k));
}

int64_t TokenSet::doc_at(int64_t position) const {
  if (doc_index_.empty() || position < 0 || position >= num_tokens()) return -1;
  // The last document that begins at or before the position; empty documents before it share its begin.
  auto entry = std::upper_bound(doc_index_.begin(), doc_index_.end(), position) - doc_index_.begin();
  if (entry == 0) return -1;
  int64_t low = (entry - 1) * kDocsPerEntry, high = std::min(num_docs(), entry * kDocsPerEntry);
  while (high - low > 1) {
    int64_t middle = low + (high - low) / 2;
    (doc_begin(middle) <= position ? low : high) = middle;
  }
  return low;
}

void TokenSet::mark_doc_starts(int64_t first, std::span<uint8_t> starts) const {
  const int64_t end = std::min(first + static_cast<int64_t>(starts.size()), num_tokens());
  int64_t k = doc_at(first);
  if (k < 0) return;
  for (int64_t begin = doc_begin(k); begin < end; begin = doc_begin(k)) {
    if (begin >= first) starts[static_cast<size_t>(begin - first)] = 1;
    if (++k == num_docs()) break;
  }
}

std::string describe_position(const TokenSet& set, int64_t position) {
  int64_t k = set.doc_at(position);
  return k < 0 ? std::string()
               : str(" (document ", k, ", token ", position - set.doc(k).front().begin, " of it)");
}

VerifyReport verify_token_set(const TokenSet& set, int64_t vocab_size, int32_t eot) {
  VerifyReport report;
  const int64_t limit = vocab_size > 0 ? vocab_size : set.vocab_size();
  set.verify_checksums();
  report.checksummed = set.info().format == "hdf5";
  report.tokens = set.num_tokens();
  report.docs = set.num_docs();
  report.min_id = std::numeric_limits<int32_t>::max();
  report.max_id = -1;
  std::vector<int32_t> block;
  for (int64_t start = 0; start < set.num_tokens(); start += static_cast<int64_t>(block.size())) {
    block.resize(static_cast<size_t>(std::min<int64_t>(1 << 20, set.num_tokens() - start)));
    set.read(start, block);
    auto [low, high] = std::minmax_element(block.begin(), block.end());
    if (limit > 0 && *high >= limit) {
      auto bad = std::find_if(block.begin(), block.end(), [&](int32_t id) { return id >= limit; });
      const int64_t position = start + (bad - block.begin());
      fail(ExitCode::kData, "DATA-06", set.path().native(), ": token ", position,
           describe_position(set, position), " is ", *high, ", expected below the vocabulary size ", limit);
    }
    report.min_id = std::min(report.min_id, *low);
    report.max_id = std::max(report.max_id, *high);
  }
  if (report.max_id < 0) report.min_id = 0;
  for (int64_t k = 0; eot >= 0 && k < set.num_docs(); ++k) {
    auto ranges = set.doc(k);
    while (!ranges.empty() && ranges.back().size() == 0) ranges.pop_back();
    int32_t last = -1;
    if (!ranges.empty()) set.read(ranges.back().end - 1, {&last, 1});
    if (last != eot)
      fail(ExitCode::kData, "DATA-06", set.path().native(), ": document ", k,
           last < 0 ? std::string(" is empty") : str(" ends with token ", last),
           ", expected it to end with token ", eot);
  }
  return report;
}

std::unique_ptr<TokenSet> open_token_set(const fs::path& path, TokenView view) {
  auto with = [&](const char* suffix) { return fs::path(path.native() + suffix); };
  std::error_code ignored;
  const bool has_idx = fs::exists(with(".idx"), ignored), has_h5 = fs::exists(with(".h5"), ignored);
  if (fs::is_regular_file(path, ignored)) {
    InputFile file(path);
    std::array<char, 8> head{};
    file.read_at(0, std::as_writable_bytes(std::span(head)).first(std::min<uint64_t>(8, file.size())));
    if (std::memcmp(head.data(), "\x89HDF\r\n\x1a\n", 8) == 0) return open_hdf5_set(path, path);
    if (path.extension() == ".bin" || path.extension() == ".idx") {
      fs::path prefix = path;
      return open_binidx(path, prefix.replace_extension(), view);
    }
    if (!has_idx && !has_h5)
      fail(ExitCode::kData, "DATA-01", path.native(),
           ": is no token set: neither HDF5 nor a .bin/.idx pair. Make one with `rookery data prepare`");
  }
  if (has_idx && has_h5)
    fail(ExitCode::kData, "DATA-01", path.native(), ": both ", with(".idx").native(), " and ",
         with(".h5").native(), " are there: name the one that is meant");
  if (has_h5) return open_hdf5_set(path, with(".h5"));
  if (has_idx) return open_binidx(path, path, view);
  fail(ExitCode::kNoInput, "DATA-21", path.native(), ": no token set there (looked for ", path.native(), ", ",
       with(".h5").native(), ", ", with(".idx").native(), " from ", fs::current_path().native(),
       "); mend the path, or make a set with `rookery data prepare`");
}

}  // namespace rookery::data
