// rope.h: rotary positions for queries and keys (llama-baseline 2, goldfinch 6). Frequencies, shapes, tape
// record: rope.cpp. Bodies: rope_cpu.cpp, rope_cuda.cu.
#pragma once

#include <vector>

#include "kernels/autograd/autograd.h"
#include "kernels/ops/backend.h"

namespace rookery {

// Which channels of a head of size D turn together.
enum class RopePairs : uint8_t {
  kHalves,    // (i, i + D/2): Hugging Face models
  kAdjacent,  // (2i, 2i + 1): the GoldFinch paper's code, Meta's original weights
};

// How the angles of a model for longer texts differ.
struct RopeScaling {
  enum class Kind : uint8_t {
    kNone,
    kLinear,  // every frequency divided by `factor` (position interpolation)
    kLlama3,  // long waves divided by `factor`, short ones kept, a ramp between (Llama 3.1)
  };
  Kind kind = Kind::kNone;
  double factor = 1;
  // kLlama3: waves longer than context / low_frequency are long, those below context / high_frequency short.
  double low_frequency = 1, high_frequency = 4, original_context = 8192;
};

struct RopeOptions {
  RopePairs pairs = RopePairs::kHalves;
  double theta = 10000;
  RopeScaling scaling;
  int64_t offset = 0;  // position of the first token
};

// Radians per token of the D/2 pairs: theta^(-2i / D), scaled.
std::vector<double> rope_frequencies(int64_t D, double theta, const RopeScaling& scaling);

namespace ops {
// Turns pair i of each head by (offset + t) frequencies[i]. x, result: [B, T, H, D], D even.
Var rope(const Var& x, const RopeOptions& options);
}  // namespace ops

struct RopeArgs {
  Tensor x;
  GradTarget y;                     // added to where it says so
  std::vector<double> frequencies;  // D/2
  RopePairs pairs;
  int64_t offset;
  bool back;       // turn the other way: the gradient
  Tensor scratch;  // cosines and sines, of one token per thread [threads, D], on a GPU of each f32 [T, D]
};
RK_BACKENDS_GPU(void rope_rotate(const RopeArgs&))

}  // namespace rookery
