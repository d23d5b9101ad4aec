// nearest.cpp: edit distance over three rows of the usual table.
#include "trainer/config/nearest.h"

#include <algorithm>

#include "kernels/base/str.h"

namespace rookery::config {

namespace {
constexpr size_t kLongestWord = 64;  // longer words are not slips of a key, and the table is quadratic
}

int edit_distance(std::string_view a, std::string_view b) {
  std::vector<int> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) above[j] = int(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = int(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before.swap(above);
    above.swap(row);
  }
  return above[b.size()];
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  if (word.empty() || word.size() > kLongestWord) return "";
  std::string best;
  int best_distance = std::max<int>(1, (int(word.size()) + 2) / 3) + 1;
  for (const std::string& candidate : candidates) {
    if (candidate.size() > kLongestWord) continue;
    int distance = edit_distance(word, candidate);
    // "warmup" for "warmup_steps": one is the start of the other, which counts as two slips however much is
    // missing.
    const bool starts = candidate.starts_with(word) || word.starts_with(candidate);
    if (starts && std::min(word.size(), candidate.size()) >= 3) distance = std::min(distance, 2);
    if (distance < best_distance) best = candidate, best_distance = distance;
  }
  return best;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best = nearest(word, candidates);
  return best.empty() ? "" : str(" (did you mean '", best, "'?)");
}

}  // namespace rookery::config
