// nearest.h: the "did you mean" of every message: the known word that is the fewest typing slips away.
// Used by: trainer/config (keys, names), trainer/cli (commands, options).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rookery::config {

// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b` (restricted
// Damerau-Levenshtein).
int edit_distance(std::string_view a, std::string_view b);

// The candidate closest to `word`, or "" where none is close enough to be a slip (a third of the length, at
// least 1 slip).
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

// " (did you mean 'x'?)" or "".
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace rookery::config
