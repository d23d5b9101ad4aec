// binidx.cpp: PREFIX.bin and PREFIX.idx of Megatron and RWKV-LM (docs/data.md). The .idx is checked in one
// pass, in constant memory, before anything trusts it.
#include <algorithm>
#include <array>

#include "data/dataset/token_set.h"
#include "kernels/base/error.h"

namespace rookery::data {

namespace {

constexpr std::array<char, 9> kMagic = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
constexpr uint64_t kHeaderBytes = 34;

std::string hex_of(std::span<const char> bytes) {
  std::string out;
  for (char c : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    if (!out.empty()) out += ' ';
    out += kDigits[static_cast<uint8_t>(c) >> 4];
    out += kDigits[static_cast<uint8_t>(c) & 15];
  }
  return out;
}

template <class T>
T load(std::span<const char> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

[[noreturn]] void refuse_magic(const InputFile& idx, const InputFile& bin, std::span<const char> head) {
  std::array<char, 9> bin_head{};
  bin.read_at(
      0, std::as_writable_bytes(std::span(bin_head)).first(std::min<uint64_t>(bin.size(), bin_head.size())));
  const int32_t word = head.size() >= 4 ? load<int32_t>(head, 0) : 0;
  const char* hint = bin_head == kMagic                     ? "the .bin and the .idx are swapped"
                     : word == 20240520 || word == 20240801 ? "this is a token shard of llm.c"
                     : head.size() >= 8 && !std::memcmp(head.data(), "TNTIDX\0\0", 8)
                         ? "this is an index of fairseq's older kind"
                         : "the file was written by another program or damaged";
  fail(ExitCode::kData, "DATA-01", idx.path().native(), ": begins with ",
       hex_of(head.first(std::min<size_t>(9, head.size()))),
       ", expected 4d 4d 49 44 49 44 58 00 00 (MMIDIDX): ", hint);
}

class BinIdxSet final : public TokenSet {
 public:
  BinIdxSet(const fs::path& path, const fs::path& prefix, TokenView view)
      : idx_(prefix.native() + ".idx"), bin_(prefix.native() + ".bin") {
    info_.path = path;
    info_.files = {bin_.path(), idx_.path()};
    info_.format = "binidx";
    const TokenType type = read_header();
    item_ = static_cast<uint64_t>(bytes_of(type));
    if (bin_.size() % item_ != 0)
      fail(ExitCode::kData, "DATA-03", bin_.path().native(), ": holds ", bin_.size(),
           " bytes, expected a multiple of ", item_, " (", to_string(type),
           " tokens): the copy was interrupted, or the .idx belongs to another .bin");
    tokens_ = TokenArray(bin_, 0, static_cast<int64_t>(bin_.size() / item_), type);
    info_.token_type = to_string(type);
    info_.num_tokens = tokens_.size();
    if (type == TokenType::kI16)
      warn("tokens are signed 16-bit integers: ids above 32767 cannot be told from negative ones");
    check_doc_index();
    check_sequences(view);
    if (in_order_) index_docs();
  }

  void read(int64_t start, std::span<int32_t> out) const override { tokens_.read(start, out); }

  std::vector<TokenRange> doc(int64_t k) const override {
    RK_CHECK(k >= 0 && k < num_docs(), "[TokenSet] document ", k, " of ", num_docs());
    if (!unreadable_.empty())
      fail(ExitCode::kData, "DATA-05", idx_.path().native(), ": documents cannot be read: ", unreadable_);
    std::array<int64_t, 2> sequences;
    docs_.read(k, sequences);
    std::vector<TokenRange> ranges;
    for (int64_t s = sequences[0]; s < sequences[1]; ++s) {
      int64_t begin = pointers_[s] / static_cast<int64_t>(item_), end = begin + lengths_[s];
      if (!ranges.empty() && ranges.back().end == begin)
        ranges.back().end = end;
      else
        ranges.push_back({begin, end});
    }
    return ranges;
  }

  int64_t doc_bytes(int64_t) const override { return -1; }
  void check_unchanged() const override {
    idx_.check_unchanged();
    bin_.check_unchanged();
  }
  void verify_checksums() const override {}  // the format has none

 protected:
  int64_t doc_begin(int64_t k) const override {
    int64_t sequence = docs_[k];
    return sequence == lengths_.size() ? num_tokens() : pointers_[sequence] / static_cast<int64_t>(item_);
  }

 private:
  void warn(std::string text) { info_.warnings.push_back(idx_.path().native() + ": " + std::move(text)); }

  // Sets the three arrays; returns the type of the tokens.
  TokenType read_header() {
    std::array<char, kHeaderBytes> buffer{};
    auto head = std::span<const char>(buffer).first(std::min(kHeaderBytes, idx_.size()));
    idx_.read_at(0, std::as_writable_bytes(std::span(buffer)).first(head.size()));
    if (head.size() < kMagic.size() || !std::equal(kMagic.begin(), kMagic.end(), head.begin()))
      refuse_magic(idx_, bin_, head);
    if (head.size() < kHeaderBytes)
      fail(ExitCode::kData, "DATA-02", idx_.path().native(), ": holds ", idx_.size(),
           " bytes, expected at least ", kHeaderBytes, ": the copy was interrupted");
    if (auto version = load<uint64_t>(head, 9); version != 1)
      fail(ExitCode::kData, "DATA-01", idx_.path().native(), ": version at byte 9 is ", version,
           ", expected 1");
    const TokenType type = type_of_code(load<uint8_t>(head, 17));
    const uint64_t S = load<uint64_t>(head, 18), D = load<uint64_t>(head, 26),
                   body = idx_.size() - kHeaderBytes;
    // Divisions first, so that no product can overflow.
    if (S > body / 12 || D > (body - 12 * S) / 8)
      fail(ExitCode::kData, "DATA-02", idx_.path().native(), ": declares ", S, " sequences (byte 18) and ", D,
           " document entries (byte 26), expected no more than its ", idx_.size(),
           " bytes can hold: the header is damaged or the copy was interrupted");
    const uint64_t expected = kHeaderBytes + 12 * S + 8 * D;
    if (idx_.size() != expected && idx_.size() != expected + S)
      fail(ExitCode::kData, "DATA-02", idx_.path().native(), ": holds ", idx_.size(), " bytes, expected ",
           expected, " for ", S, " sequences and ", D, " document entries (or ", expected + S,
           " with modes)");
    lengths_ = {idx_, kHeaderBytes, static_cast<int64_t>(S)};
    pointers_ = {idx_, kHeaderBytes + 4 * S, static_cast<int64_t>(S)};
    docs_ = {idx_, kHeaderBytes + 12 * S, static_cast<int64_t>(D)};
    return type;
  }

  TokenType type_of_code(uint8_t code) const {
    switch (code) {
      case 1:
        return TokenType::kU8;
      case 3:
        return TokenType::kI16;
      case 4:
        return TokenType::kI32;
      case 5:
        return TokenType::kI64;
      case 8:
        return TokenType::kU16;
      default:
        fail(ExitCode::kData, "DATA-01", idx_.path().native(), ": element code at byte 17 is ", code,
             code == 6 || code == 7 ? " (a float, which is no token)" : "",
             ", expected 8 (uint16), 4 (int32), 5 (int64), 3 (int16) or 1 (uint8)");
    }
  }

  // Document k is the sequences [docs[k], docs[k+1]).
  void check_doc_index() {
    const int64_t S = lengths_.size(), D = docs_.size();
    if (D == 0)
      fail(ExitCode::kData, "DATA-05", idx_.path().native(),
           ": the document index is empty, expected documents + 1 entries");
    int64_t previous = 0;
    docs_.for_each_block([&](int64_t first, std::span<const int64_t> block) {
      for (size_t i = 0; i < block.size(); ++i) {
        int64_t k = first + static_cast<int64_t>(i), value = block[i];
        bool valid = k == 0 ? value == 0 : value >= previous && value <= S;
        if (!valid)
          fail(ExitCode::kData, "DATA-05", idx_.path().native(), ": entry ", k, " of the document index is ",
               value, ", expected ",
               k == 0 ? std::string("0") : str(previous, " to ", S, " (it must not decrease)"));
        previous = value;
      }
    });
    if (previous != S)
      fail(ExitCode::kData, "DATA-05", idx_.path().native(), ": the document index ends at sequence ",
           previous, ", expected ", S);
    info_.num_docs = D - 1;
  }

  // Lengths and pointers side by side. Contiguous pointers must cover the .bin exactly.
  void check_sequences(TokenView view) {
    const int64_t S = lengths_.size();
    unsigned __int128 sum = 0;  // tokens of all sequences
    int64_t outside = -1, misaligned = -1, unordered = -1, previous_end = 0;
    bool contiguous = true;
    std::vector<int64_t> starts;
    lengths_.for_each_block([&](int64_t first, std::span<const int32_t> lengths) {
      starts.resize(lengths.size());
      pointers_.read(first, starts);
      for (size_t i = 0; i < lengths.size(); ++i) {
        const int64_t s = first + static_cast<int64_t>(i);
        if (lengths[i] < 0)
          fail(ExitCode::kData, "DATA-05", idx_.path().native(), ": sequence ", s, " has length ", lengths[i],
               ", expected 0 or more (byte ", kHeaderBytes + 4 * static_cast<uint64_t>(s), ")");
        const uint64_t start = static_cast<uint64_t>(starts[i]),
                       bytes = static_cast<uint64_t>(lengths[i]) * item_;
        contiguous = contiguous && start == sum * item_;
        sum += static_cast<uint64_t>(lengths[i]);
        if (starts[i] < 0 || start > bin_.size() || bytes > bin_.size() - start) {
          if (outside < 0) outside = s;
          continue;
        }
        if (start % item_ != 0 && misaligned < 0) misaligned = s;
        if (starts[i] < previous_end && unordered < 0) unordered = s;
        previous_end = static_cast<int64_t>(start + bytes);
      }
    });
    if (contiguous && sum != static_cast<unsigned __int128>(num_tokens()))
      fail(ExitCode::kData, "DATA-03", idx_.path().native(), ": index and data disagree: the index lists ",
           static_cast<uint64_t>(sum), " tokens, ", bin_.path().native(), " holds ", num_tokens(),
           outside < 0 ? std::string(": the .bin has grown or the .idx is of another .bin")
                       : str("; first sequence outside: ", outside,
                             ". The copy was interrupted: copy the .bin again"));
    auto bad = [&](std::string text) {
      if (view == TokenView::kDocuments) fail(ExitCode::kData, "DATA-05", idx_.path().native(), ": ", text);
      warn(text);
      unreadable_ = std::move(text);
    };
    if (outside >= 0)
      bad(str("sequence ", outside, " has ", lengths_[outside], " tokens from byte ", pointers_[outside],
              ", expected them within the ", bin_.size(), " bytes of the .bin"));
    if (misaligned >= 0)
      bad(str("sequence ", misaligned, " starts at byte ", pointers_[misaligned], ", expected a multiple of ",
              item_));
    if (unordered >= 0)
      warn(str("sequence ", unordered, " starts at byte ", pointers_[unordered],
               ", before the end of the one before it: pointers are not in order"));
    in_order_ = S > 0 && unreadable_.empty() && unordered < 0;
  }

  InputFile idx_, bin_;
  uint64_t item_ = 0;  // bytes of one token
  TokenArray tokens_;
  FileArray<int32_t> lengths_;
  FileArray<int64_t> pointers_, docs_;
  std::string unreadable_;  // why documents cannot be read, in flat view
  bool in_order_ = false;
};

}  // namespace

std::unique_ptr<TokenSet> open_binidx(const fs::path& path, const fs::path& prefix, TokenView view) {
  return std::make_unique<BinIdxSet>(path, prefix, view);
}

}  // namespace rookery::data
