// degrees.h: the ways of dividing the work over ranks, and into how many parts each does: plain numbers, for
// those who compute with meshes without being on one.
#pragma once

#include <cstdint>
#include <string>

namespace rookery {

enum class Axis : uint8_t {
  kPipe,    // ranges of blocks
  kData,    // other sequences of the batch
  kSeq,     // other tokens of the same sequences
  kTensor,  // other heads, hidden channels and words of the vocabulary
  kExpert,  // other experts; folds out of data x seq
};
std::string to_string(Axis axis);  // "pipe", ..: the key of the configuration

struct MeshDegrees {
  int64_t pipe = 1, data = 1, seq = 1, tensor = 1, expert = 1;
  int64_t of(Axis axis) const;
  int64_t world() const { return pipe * data * seq * tensor; }
  bool operator==(const MeshDegrees&) const = default;
};
std::string to_string(const MeshDegrees& degrees);  // "data 2 x tensor 4", "one rank"

}  // namespace rookery
