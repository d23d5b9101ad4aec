// inspect.cpp: two samples of a set: blocks of the stream, and every so many-th document.
#include "data/dataset/inspect.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace rookery::data {

namespace {

constexpr int64_t kBlock = 1 << 20, kBlocks = 16, kDocs = 1 << 20;

void look_at_tokens(const TokenSet& set, InspectReport& report) {
  const int64_t blocks = std::min(kBlocks, (set.num_tokens() + kBlock - 1) / kBlock);
  std::vector<bool> seen;
  std::vector<int32_t> tokens;
  report.min_id = std::numeric_limits<int32_t>::max();
  for (int64_t i = 0; i < blocks; ++i) {
    // All of a small set; else blocks spread from the first token to the last.
    const int64_t start =
        set.num_tokens() <= kBlock * kBlocks ? i * kBlock : (set.num_tokens() - kBlock) / (blocks - 1) * i;
    tokens.resize(static_cast<size_t>(std::min(kBlock, set.num_tokens() - start)));
    set.read(start, tokens);
    report.sampled_tokens += static_cast<int64_t>(tokens.size());
    auto [low, high] = std::minmax_element(tokens.begin(), tokens.end());
    report.min_id = std::min(report.min_id, *low);
    report.max_id = std::max(report.max_id, *high);
    if (static_cast<size_t>(*high) >= seen.size()) seen.resize(static_cast<size_t>(*high) + 1);
    int64_t run = 0;
    for (size_t t = 0; t < tokens.size(); ++t) {
      seen[static_cast<size_t>(tokens[t])] = true;
      run = t > 0 && tokens[t] == tokens[t - 1] ? run + 1 : 1;
      if (run > report.longest_run) report.longest_run = run, report.longest_run_id = tokens[t];
    }
  }
  if (blocks == 0) report.min_id = 0;
  report.distinct_ids = std::count(seen.begin(), seen.end(), true);
}

void look_at_documents(const TokenSet& set, InspectReport& report) {
  const int64_t step = std::max<int64_t>(1, (set.num_docs() + kDocs - 1) / kDocs);
  int64_t total = 0;
  for (int64_t k = 0; k < set.num_docs(); k += step) {
    int64_t length = 0;
    int32_t last = -1;
    for (const TokenRange& range : set.doc(k)) {
      length += range.size();
      if (range.size() > 0) set.read(range.end - 1, {&last, 1});
    }
    const size_t bin =
        static_cast<size_t>(std::bit_width(static_cast<uint64_t>(std::max<int64_t>(length, 1))) - 1);
    if (bin >= report.length_histogram.size()) report.length_histogram.resize(bin + 1);
    ++report.length_histogram[bin];
    report.unended_docs += last != set.eot_id();
    report.bare_docs += length == 0 || (length == 1 && last == set.eot_id());
    report.shortest_doc = report.sampled_docs == 0 ? length : std::min(report.shortest_doc, length);
    report.longest_doc = std::max(report.longest_doc, length);
    total += length;
    ++report.sampled_docs;
  }
  if (report.sampled_docs > 0)
    report.mean_doc = static_cast<double>(total) / static_cast<double>(report.sampled_docs);
}

}  // namespace

InspectReport inspect_token_set(const TokenSet& set) {
  InspectReport report;
  look_at_tokens(set, report);
  look_at_documents(set, report);
  return report;
}

}  // namespace rookery::data
