#include "parallel/pipeline/stages.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

namespace rookery {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// Cuts [0, num_blocks) into `stages` ranges that are not empty. cost(begin, end): of one of them; the result
// is the cut of which join() of all costs is the least, and that cost.
template <class Cost, class Join>
std::pair<std::vector<int64_t>, double> best_cut(int64_t num_blocks, int64_t stages, Cost cost, Join join) {
  const auto L = static_cast<size_t>(num_blocks), S = static_cast<size_t>(stages);
  // least[s][b]: of the first b blocks on s stages; from[s][b]: where the last of these begins.
  std::vector<std::vector<double>> least(S + 1, std::vector<double>(L + 1, kNever));
  std::vector<std::vector<size_t>> from(S + 1, std::vector<size_t>(L + 1, 0));
  least[0][0] = 0;
  for (size_t s = 1; s <= S; ++s)
    for (size_t end = s; end <= L; ++end)
      for (size_t begin = s - 1; begin < end; ++begin) {
        const double all =
            join(least[s - 1][begin], cost(static_cast<int64_t>(begin), static_cast<int64_t>(end)));
        if (all < least[s][end]) {
          least[s][end] = all;
          from[s][end] = begin;
        }
      }
  std::vector<int64_t> split(S);
  for (size_t s = S, end = L; s > 0; end = from[s][end], --s)
    split[s - 1] = static_cast<int64_t>(end - from[s][end]);
  return {split, least[S][L]};
}

}  // namespace

bool StageBlocks::has(const Parameter& p) const {
  if (p.tied && last()) return true;
  if (p.unit == 0) return first();
  return p.unit > num_blocks ? last() : begin < p.unit && p.unit <= end;
}

std::vector<int64_t> even_split(std::span<const UnitCost> units, int64_t stages) {
  const int64_t L = static_cast<int64_t>(units.size()) - 2;
  RK_CHECK(stages >= 1 && L >= stages, "[even_split] ", L, " blocks on ", stages, " stages");
  std::vector<UnitCost> before(1);  // of the units in front of each
  for (const UnitCost& unit : units)
    before.push_back({before.back().flops + unit.flops, before.back().elements + unit.elements});
  const auto sum = [&](double UnitCost::*what, int64_t begin, int64_t end) {
    const int64_t first = begin == 0 ? 0 : begin + 1, behind = end == L ? L + 2 : end + 1;
    return before[static_cast<size_t>(behind)].*what - before[static_cast<size_t>(first)].*what;
  };
  const auto time = [&](int64_t begin, int64_t end) { return sum(&UnitCost::flops, begin, end); };
  const auto slower = [](double a, double b) { return std::max(a, b); };
  const double slowest = best_cut(L, stages, time, slower).second;
  const auto size = [&](int64_t begin, int64_t end) {
    const double elements = sum(&UnitCost::elements, begin, end);
    return time(begin, end) > slowest ? kNever : elements * elements;
  };
  return best_cut(L, stages, size, std::plus<>()).first;
}

StageBlocks blocks_of_stage(std::span<const int64_t> split, int64_t stage) {
  const auto before = split.first(static_cast<size_t>(stage));
  const int64_t begin = std::accumulate(before.begin(), before.end(), int64_t{0});
  return {begin, begin + split[static_cast<size_t>(stage)],
          std::accumulate(split.begin(), split.end(), int64_t{0})};
}

}  // namespace rookery
