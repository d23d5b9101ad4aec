// vocab_trainer.cpp: chooses tokens from the candidates. The measure is the number of tokens of the whole
// sample; the worth of a single token is found exactly, by encoding on from each of its uses without it until
// both ways meet again.
#include "data/tokenizer/vocab_trainer.h"

#include <algorithm>
#include <numeric>

#include "data/tokenizer/byte_trie.h"
#include "data/tokenizer/candidates.h"
#include "data/tokenizer/utf8.h"
#include "kernels/base/error.h"

namespace rookery::data {
namespace {

constexpr size_t kPartBytes = size_t{64} << 10;  // one unit of parallel work; its tables fit in the cache
constexpr int kMaxDetour = 64;  // tokens after which two ways of encoding count as never meeting
constexpr int64_t kMaxWeight = 4 * kUnitWeight;  // of a language with little text
constexpr size_t kCandidatesPerToken = 8;
constexpr double kKeptPerRound = 0.88;  // while there are too many
constexpr int kExchangeRounds = 6;

// Cuts at line ends into parts of about kPartBytes.
void cut_into_parts(std::string_view text, int64_t weight, std::vector<WeightedText>& parts) {
  while (!text.empty()) {
    const size_t line_end = text.size() <= kPartBytes ? std::string_view::npos : text.find('\n', kPartBytes);
    const size_t end = line_end == std::string_view::npos ? text.size() : line_end + 1;
    parts.push_back({text.substr(0, end), weight});
    text.remove_prefix(end);
  }
}

class Selection {
 public:
  Selection(std::vector<WeightedText> parts, const std::vector<std::string>& candidates, ThreadPool& pool)
      : parts_(std::move(parts)), pool_(pool) {
    for (int byte = 0; byte < 256; ++byte) add_entry(std::string(1, static_cast<char>(byte)));
    for (const std::string& bytes : candidates) add_entry(bytes);
    chosen_.assign(entries_.size(), true);
    num_chosen_ = entries_.size();
  }

  size_t num_chosen() const { return num_chosen_; }
  int64_t total_tokens() const { return total_; }

  // Drops the tokens that the encoder would miss least until `count` are left. Single bytes stay.
  void shrink_to(size_t count) {
    const std::vector<int64_t> worth = measure(Measure::kChosen);
    std::vector<int32_t> order = ids_where([&](int32_t id) { return id >= 256 && chosen_[id]; });
    sort_by(order, worth, false);
    order.resize(std::min(order.size(), num_chosen_ - count));
    for (int32_t id : order) chosen_[id] = false;
    num_chosen_ -= order.size();
  }

  // Adds the `count` candidates that would save most.
  void grow_by(size_t count) {
    const std::vector<int64_t> worth = measure(Measure::kOthers);
    std::vector<int32_t> order = ids_where([&](int32_t id) { return !chosen_[id] && worth[id] > 0; });
    sort_by(order, worth, true);
    order.resize(std::min(order.size(), count));
    for (int32_t id : order) chosen_[id] = true;
    num_chosen_ += order.size();
  }

  // Weighted number of tokens of the sample with the present choice.
  int64_t count_tokens() {
    measure(Measure::kTotal);
    return total_;
  }

  const std::vector<bool>& chosen() const { return chosen_; }
  void choose(const std::vector<bool>& chosen) {
    chosen_ = chosen;
    num_chosen_ = static_cast<size_t>(std::count(chosen.begin(), chosen.end(), true));
  }

  std::vector<std::string> tokens() const {
    std::vector<std::string> out;
    for (const VocabEntry& e : entries_) {
      if (chosen_[e.id]) out.push_back(e.bytes);
    }
    return out;
  }

 private:
  enum class Measure { kTotal, kChosen, kOthers };
  using Match = ByteTrie::Match;

  void add_entry(std::string bytes) {
    entries_.push_back({static_cast<int32_t>(entries_.size()), std::move(bytes)});
  }

  template <class F>
  std::vector<int32_t> ids_where(F&& keep) const {
    std::vector<int32_t> ids;
    for (const VocabEntry& e : entries_) {
      if (keep(e.id)) ids.push_back(e.id);
    }
    return ids;
  }

  // Ties go by the bytes, so the result does not hang on the order of the candidates.
  void sort_by(std::vector<int32_t>& ids, const std::vector<int64_t>& worth, bool descending) const {
    std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
      if (worth[a] != worth[b]) return descending ? worth[a] > worth[b] : worth[a] < worth[b];
      return entries_[a].bytes < entries_[b].bytes;
    });
  }

  // kChosen: for each chosen token, the weighted number of tokens by which the sample would grow without it.
  // kOthers: for each other candidate, by how much the sample would shrink with it. Sets total_ in every
  // case. Sums of integers over parts: the same for any number of threads.
  std::vector<int64_t> measure(Measure what) {
    std::vector<VocabEntry> present;
    for (const VocabEntry& e : entries_) {
      if (what == Measure::kOthers || chosen_[e.id]) present.push_back(e);
    }
    const ByteTrie trie(present);
    std::vector<std::vector<int64_t>> worth(pool_.num_threads(), std::vector<int64_t>(entries_.size(), 0));
    std::vector<int64_t> total(pool_.num_threads(), 0);
    parallel_parts(pool_, static_cast<int64_t>(parts_.size()), 1,
                   [&](int64_t begin, int64_t end, int thread) {
                     for (int64_t i = begin; i < end; ++i)
                       total[thread] += measure_part(trie, what, parts_[i], worth[thread]);
                   });
    for (int thread = 1; thread < pool_.num_threads(); ++thread) {
      for (size_t id = 0; id < entries_.size(); ++id) worth[0][id] += worth[thread][id];
    }
    total_ = std::accumulate(total.begin(), total.end(), int64_t{0});
    return std::move(worth[0]);
  }

  int64_t measure_part(const ByteTrie& trie, Measure what, const WeightedText& part,
                       std::vector<int64_t>& worth) const {
    struct Place {
      Match best, second;  // the two longest chosen tokens here
    };
    const std::string_view text = part.text;
    std::vector<Place> places(text.size());
    for (size_t at = 0; at < text.size(); ++at) {
      Place& p = places[at];
      trie.prefixes(text.substr(at), [&](int32_t id, uint32_t length) {
        if (chosen_[id]) p = {{id, length}, p.best};
      });
    }
    // Tokens by which going on from `other` is dearer than from `one`, until both ways meet. `other` avoids
    // the token `avoid`.
    const auto detour = [&](size_t one, size_t other, int32_t avoid) {
      int64_t difference = 0;
      for (int step = 0; step < kMaxDetour && one != other; ++step) {
        if (one < other) {
          one += places[one].best.length;
          --difference;
        } else {
          const Place& p = places[other];
          other += p.best.id == avoid ? p.second.length : p.best.length;
          ++difference;
        }
      }
      return difference;
    };
    int64_t tokens = 0;
    for (size_t at = 0; at < text.size(); at += places[at].best.length, ++tokens) {
      const Place& p = places[at];
      if (what == Measure::kChosen && p.best.length > 1) {
        worth[p.best.id] += part.weight * detour(at + p.best.length, at + p.second.length, p.best.id);
      } else if (what == Measure::kOthers) {
        trie.prefixes(text.substr(at), [&](int32_t id, uint32_t length) {
          if (length > p.best.length) worth[id] += part.weight * detour(at + length, at + p.best.length, -1);
        });
      }
    }
    return part.weight * tokens;
  }

  std::vector<WeightedText> parts_;
  ThreadPool& pool_;
  std::vector<VocabEntry> entries_;  // id = index; the first 256 are the single bytes
  std::vector<bool> chosen_;
  size_t num_chosen_ = 0;
  int64_t total_ = 0;
};

}  // namespace

std::vector<VocabEntry> train_vocabulary(const std::vector<LanguageSample>& samples,
                                         const VocabTraining& options, ThreadPool& pool) {
  RK_CHECK(options.vocab_size >= 258 && options.vocab_size <= kMaxTokenId + 1,
           "[train_vocabulary] vocab_size ", options.vocab_size, " is not in 258..65536");
  const auto say = [&](const std::string& line) {
    if (options.progress) options.progress(line);
  };
  size_t largest = 0;
  for (const LanguageSample& s : samples) largest = std::max(largest, s.text.size());
  std::vector<WeightedText> parts;
  for (const LanguageSample& s : samples) {
    int64_t weight = kUnitWeight;
    if (options.equal_languages && !s.text.empty()) {
      weight = std::min<int64_t>(
          kMaxWeight, kUnitWeight * static_cast<int64_t>(largest) / static_cast<int64_t>(s.text.size()));
    }
    cut_into_parts(s.text, weight, parts);
  }

  const auto target = static_cast<size_t>(options.vocab_size) - 1;
  std::vector<std::string> candidates;
  // Tokens made of rare strings fit this sample but no other text: they are looked at only where a small text
  // has no others.
  for (const int64_t least_count : {12, 6, 3, 2}) {
    candidates = find_candidates(parts, least_count, kCandidatesPerToken * target);
    if (candidates.size() + 256 >= 2 * target) break;
  }
  if (candidates.size() + 256 < target) {
    fail(ExitCode::kData, "VOCAB-11", "the text holds only ", candidates.size() + 257,
         " strings that are worth a token, expected ", options.vocab_size,
         ". Give more text, or a smaller size");
  }
  Selection selection(std::move(parts), candidates, pool);
  say(str(candidates.size(), " candidates"));
  while (selection.num_chosen() > target) {
    const auto fewer = static_cast<size_t>(static_cast<double>(selection.num_chosen()) * kKeptPerRound);
    selection.shrink_to(std::max(target, fewer));
    say(str("tokens: ", selection.num_chosen()));
  }
  std::vector<bool> best = selection.chosen();
  int64_t best_total = selection.count_tokens();
  for (int round = 0; round < kExchangeRounds; ++round) {
    selection.grow_by(target / 8 / static_cast<size_t>(round + 1));
    selection.shrink_to(target);
    const int64_t total = selection.count_tokens();
    say(str("exchange round ", round + 1, ": ", total / kUnitWeight, " tokens for the sample"));
    if (total >= best_total) continue;
    best_total = total;
    best = selection.chosen();
  }
  selection.choose(best);

  std::vector<std::string> tokens = selection.tokens();
  std::sort(tokens.begin(), tokens.end(), [](const std::string& a, const std::string& b) {
    return a.size() != b.size() ? a.size() < b.size() : a < b;
  });
  std::vector<VocabEntry> entries;
  for (std::string& bytes : tokens)
    entries.push_back({static_cast<int32_t>(entries.size()) + 1, std::move(bytes)});
  return entries;
}

TokenStatistics token_statistics(const Tokenizer& tokenizer, std::string_view given) {
  const std::vector<int32_t> ids = tokenizer.encode(given);
  const std::string normal = tokenizer.normalise(given);  // what the tokens are made of
  const std::string_view text = normal;
  TokenStatistics s;
  s.bytes = static_cast<int64_t>(given.size());
  s.tokens = static_cast<int64_t>(ids.size());
  size_t boundary = 0,
         next = 0;  // the first token boundary after the present character's first byte; the next token
  for (size_t at = 0; at < text.size();) {
    const uint32_t length = first_utf8_char(text.substr(at)).length;
    while (boundary <= at) boundary += tokenizer.decode({&ids[next++], 1}).size();
    s.characters += 1;
    s.whole_characters += boundary >= at + length;
    at += length;
  }
  return s;
}

}  // namespace rookery::data
