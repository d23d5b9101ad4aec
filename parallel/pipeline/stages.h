// stages.h: which blocks of the model, and so which of its parameters, a stage of the pipeline has. In what
// order it works on them: schedule.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/autograd/autograd.h"

namespace rookery {

// Blocks [begin, end) of a model, with the embedding before the first of them and the last norm and the head
// behind the last.
struct StageBlocks {
  int64_t begin = 0, end = 0, num_blocks = 0;  // the last: of the whole model
  bool first() const { return begin == 0; }
  bool last() const { return end == num_blocks; }
  // A tied parameter is on the first stage and on the last.
  bool has(const Parameter& p) const;
};

// Of one unit (Parameter::unit).
struct UnitCost {
  double flops = 0;     // forward, per token
  double elements = 0;  // of its parameters
};

// For the units of a model, block i being unit i + 1, the number of blocks of each stage, at least one: the
// slowest stage as fast as possible; of all such cuts the one whose parameters are spread most evenly (least
// sum of squares), so that the stages with embedding and head are lighter in blocks.
std::vector<int64_t> even_split(std::span<const UnitCost> units, int64_t stages);

// split: blocks of each stage.
StageBlocks blocks_of_stage(std::span<const int64_t> split, int64_t stage);

}  // namespace rookery
