// positions.h: loss by position in the context: the long-context plot.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rookery::eval {

// Positions [from, to] of the tokens of a document, 1 being the first.
struct PositionBin {
  int64_t from, to;
  double nats = 0;
  int64_t tokens = 0;
};

// Positions 1 to length in bins of `width`, or, with width 0, up to the powers of two: 1, 2, 3-4, 5-8, ...
std::vector<PositionBin> position_bins(int64_t length, int64_t width);

// nats[i] belongs to position i + 1; what lies beyond the last bin is left out.
void add_to_bins(std::vector<PositionBin>& bins, std::span<const double> nats);

}  // namespace rookery::eval
