#include "trainer/eval/positions.h"

#include <algorithm>

namespace rookery::eval {

std::vector<PositionBin> position_bins(int64_t length, int64_t width) {
  std::vector<PositionBin> bins;
  for (int64_t from = 1; from <= length; from = bins.back().to + 1)
    bins.push_back({from, std::min(length, from + (width > 0 ? width : std::max<int64_t>(1, from - 1)) - 1)});
  return bins;
}

void add_to_bins(std::vector<PositionBin>& bins, std::span<const double> nats) {
  for (PositionBin& bin : bins)
    for (int64_t p = bin.from; p <= bin.to && p <= static_cast<int64_t>(nats.size()); ++p) {
      bin.nats += nats[p - 1];
      ++bin.tokens;
    }
}

}  // namespace rookery::eval
