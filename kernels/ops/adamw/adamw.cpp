// adamw.cpp: the table of ranges (kernels/ops/adamw/adamw.h).
#include "kernels/ops/adamw/adamw.h"

#include <algorithm>
#include <vector>

namespace rookery {

static_assert(sizeof(AdamwRule) == 3 * sizeof(double) && sizeof(AdamwTile) == 3 * sizeof(int64_t) &&
              sizeof(AdamwState) == 3 * sizeof(double));

AdamwTable adamw_table(std::span<const AdamwRange> ranges, Device& device) {
  std::vector<double> rules;
  std::vector<int64_t> tiles;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const AdamwRange& r = ranges[i];
    rules.insert(rules.end(), {r.lr_scale, r.weight_decay, static_cast<double>(r.missed)});
    for (int64_t begin = r.begin; begin < r.end; begin += kSquaresBlock)
      tiles.insert(tiles.end(), {begin, std::min(r.end, begin + kSquaresBlock), static_cast<int64_t>(i)});
  }
  const Shape num_rules{static_cast<int64_t>(ranges.size()), 3},
      num_tiles{static_cast<int64_t>(tiles.size()) / 3, 3};
  return {tensor_from(std::span<const double>(rules), num_rules, DType::kF64, device),
          tensor_from(std::span<const int64_t>(tiles), num_tiles, DType::kI64, device)};
}

}  // namespace rookery
