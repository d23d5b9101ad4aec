// bpe_tokenizer.cpp: see bpe_tokenizer.h. merge() is the loop that the published definitions describe.
#include "data/tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <bit>

#include "data/tokenizer/unicode.h"
#include "kernels/base/error.h"
#include "kernels/base/io.h"

namespace rookery::data {
namespace {

// The tokens of published vocabularies that end a text, and that begin one.
constexpr std::string_view kEndTokens[] = {"<|endoftext|>", "<|end_of_text|>"};
constexpr std::string_view kBeginToken = "<|begin_of_text|>";

std::vector<VocabEntry> added_entries(const BpeModel& model, bool normalised) {
  std::vector<VocabEntry> entries;
  for (const AddedToken& t : model.added)
    if (t.normalized == normalised)
      entries.push_back({t.id, normalised && model.nfc ? to_nfc(t.content) : t.content});
  return entries;
}

}  // namespace

// A word being merged: its parts as a linked list, and the pairs that may merge as a heap.
struct BpeTokenizer::Scratch {
  struct Part {
    int32_t id;
    uint32_t before, after;  // neighbours
  };
  struct Candidate {
    int32_t rank;
    uint32_t at;  // the left part
    int32_t left, right, merged;
    // The heap gives the lowest rank first, of equal ones the leftmost.
    bool operator<(const Candidate& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }
  };
  std::vector<Part> parts;
  std::vector<Candidate> heap;
};

BpeTokenizer::MergeTable::MergeTable(std::span<const BpeMerge> merges) {
  const size_t size = std::bit_ceil(2 * merges.size() + 2);
  shift_ = 64 - std::countr_zero(size);
  slots_.resize(size);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const uint64_t pair = pair_of(merges[rank].left, merges[rank].right);
    size_t at = home(pair);
    while (slots_[at].merged.rank >= 0) at = (at + 1) & (size - 1);
    slots_[at] = {pair, {static_cast<int32_t>(rank), merges[rank].merged}};
  }
}

BpeTokenizer::Merged BpeTokenizer::MergeTable::find(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(left, right);
  for (size_t at = home(pair);; at = (at + 1) & (slots_.size() - 1)) {
    if (slots_[at].merged.rank < 0) return {};
    if (slots_[at].pair == pair) return slots_[at].merged;
  }
}

BpeTokenizer::BpeTokenizer(std::string_view file, std::string name)
    : BpeTokenizer(parse_tokenizer_json(file, name), io::sha256(file), name) {}

BpeTokenizer::BpeTokenizer(const BpeModel& model, std::string sha256, std::string name)
    : nfc_(model.nfc),
      ignore_merges_(model.ignore_merges),
      split_(model.split),
      merges_(model.merges),
      added_raw_(added_entries(model, false)),
      added_normalised_(added_entries(model, true)),
      sha256_(std::move(sha256)),
      name_(std::move(name)) {
  int32_t last = 0;
  size_t bytes = 0;
  const auto measure = [&](int32_t id, const std::string& token) {
    last = std::max(last, id);
    bytes += token.size();
  };
  for (const VocabEntry& t : model.tokens) measure(t.id, t.bytes);
  for (const AddedToken& t : model.added) measure(t.id, t.content);
  spans_.resize(static_cast<size_t>(last) + 1);
  is_special_.resize(spans_.size());
  whole_ = std::make_unique<std::atomic<Whole>[]>(spans_.size());  // kUnknown
  pool_.reserve(bytes);                                            // words_ points into it
  const auto place = [&](int32_t id, const std::string& token) {
    spans_[id] = {static_cast<uint32_t>(pool_.size()), static_cast<uint32_t>(token.size())};
    pool_ += token;
  };
  for (const VocabEntry& t : model.tokens) {
    place(t.id, t.bytes);
    words_.emplace(token(t.id), t.id);
    if (t.bytes.size() == 1) byte_ids_[static_cast<unsigned char>(t.bytes[0])] = t.id;
  }
  for (const AddedToken& t : model.added) {
    if (spans_[t.id].length == 0) place(t.id, t.content);
    is_special_[t.id] = t.special;
    if (std::find(std::begin(kEndTokens), std::end(kEndTokens), t.content) != std::end(kEndTokens))
      eot_id_ = t.id;
    if (t.content == kBeginToken) bos_id_ = t.id;
  }
  if (eot_id_ < 0)
    fail(ExitCode::kData, "BPE-06", name_, ": no added token ends a text, expected ", kEndTokens[0], " or ",
         kEndTokens[1]);
  if (bos_id_ < 0) bos_id_ = eot_id_;
}

void BpeTokenizer::merge(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const {
  const auto n = static_cast<uint32_t>(word.size());
  auto& [parts, heap] = scratch;
  parts.clear();
  heap.clear();
  for (uint32_t i = 0; i < n; ++i)
    parts.push_back({byte_ids_[static_cast<unsigned char>(word[i])], i - 1, i + 1});
  const auto propose = [&](uint32_t at) {
    const uint32_t next = parts[at].after;
    const Merged found = merges_.find(parts[at].id, parts[next].id);
    if (found.rank >= 0) heap.push_back({found.rank, at, parts[at].id, parts[next].id, found.id});
    return found.rank >= 0;
  };
  for (uint32_t i = 0; i + 1 < n; ++i) propose(i);
  std::make_heap(heap.begin(), heap.end());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const auto best = heap.back();
    heap.pop_back();
    const uint32_t right = parts[best.at].after;
    // Either part may have gone into another pair meanwhile; such candidates are left behind.
    if (parts[best.at].id != best.left || right >= n || parts[right].id != best.right) continue;
    parts[best.at].id = best.merged;
    parts[right].id = -1;
    parts[best.at].after = parts[right].after;
    if (parts[right].after < n) parts[parts[right].after].before = best.at;
    if (best.at > 0 && propose(parts[best.at].before)) std::push_heap(heap.begin(), heap.end());
    if (parts[best.at].after < n && propose(best.at)) std::push_heap(heap.begin(), heap.end());
  }
  for (uint32_t at = 0; at < n; at = parts[at].after) ids.push_back(parts[at].id);
}

void BpeTokenizer::encode_words(std::string_view text, Scratch& scratch, std::vector<int32_t>& ids) const {
  while (!text.empty()) {
    const std::string_view word = text.substr(0, piece_length(split_, text));
    text.remove_prefix(word.size());
    const auto found = words_.find(word);
    if (found == words_.end()) {
      merge(word, scratch, ids);
      continue;
    }
    const int32_t id = found->second;
    const Whole whole = ignore_merges_ ? kWhole : whole_[id].load(std::memory_order_relaxed);
    if (whole == kWhole) {
      ids.push_back(id);
      continue;
    }
    const size_t before = ids.size();
    merge(word, scratch, ids);
    if (whole == kUnknown)
      whole_[id].store(ids.size() == before + 1 && ids.back() == id ? kWhole : kParts,
                       std::memory_order_relaxed);
  }
}

// Calls found(id) for each added token in `text`, the longest where several begin, and between(part) for what
// lies between them.
template <class Found, class Between>
void BpeTokenizer::cut_added(const ByteTrie& trie, std::string_view text, bool take_special, Found&& found,
                             Between&& between) const {
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    ByteTrie::Match match;
    trie.prefixes(text.substr(at), [&](int32_t id, uint32_t length) {
      if (take_special || !is_special_[id]) match = {id, length};
    });
    if (match.id < 0) {
      ++at;
      continue;
    }
    if (at > begin) between(text.substr(begin, at - begin));
    found(match.id);
    begin = at += match.length;
  }
  if (begin < text.size()) between(text.substr(begin));
}

template <class Token, class Words>
void BpeTokenizer::walk(std::string_view text, bool take_special, Token&& token, Words&& words) const {
  cut_added(added_raw_, text, take_special, token, [&](std::string_view raw) {
    const std::string composed = nfc_ ? to_nfc(raw) : std::string();
    cut_added(added_normalised_, nfc_ ? composed : raw, take_special, token, words);
  });
}

std::vector<int32_t> BpeTokenizer::encode(std::string_view text, bool take_special) const {
  if (text.size() >= (size_t{1} << 31))
    fail(ExitCode::kData, "BPE-07", name_, ": a text of ", text.size(),
         " bytes, expected less than 2 GiB; cut it");
  std::vector<int32_t> ids;
  Scratch scratch;
  walk(
      text, take_special, [&](int32_t id) { ids.push_back(id); },
      [&](std::string_view words) { encode_words(words, scratch, ids); });
  return ids;
}

std::string BpeTokenizer::normalise(std::string_view text) const {
  std::string out;
  walk(
      text, false, [&](int32_t id) { out += token(id); }, [&](std::string_view words) { out += words; });
  return out;
}

std::string_view BpeTokenizer::token(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return std::string_view(pool_).substr(spans_[id].offset, spans_[id].length);
}

std::string BpeTokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string_view bytes = token(ids[i]);
    if (bytes.empty())
      fail(ExitCode::kData, "BPE-08", name_, ": id ", ids[i], " at position ", i,
           " is not in the vocabulary (ids 0 to ", vocab_size() - 1,
           "). Use the vocabulary that these tokens were made with");
    text += bytes;
  }
  return text;
}

}  // namespace rookery::data
