// sampling.h: one token from logits.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "kernels/base/rng.h"

namespace rookery::eval {

struct SamplingOptions {
  double temperature = 1;  // 0: the most probable token
  double top_p = 1;   // the smallest set of most probable tokens with this share; 0: the most probable token
  int64_t top_k = 0;  // at most so many; 0: no limit
  double presence_penalty = 0,
         frequency_penalty =
             0;  // taken from the logits of tokens seen in the answer: once, and per occurrence
  uint64_t seed = 0;
};

// Draw number i of a sampler is a pure function of (seed, i, logits): the same text every time.
class Sampling {
 public:
  explicit Sampling(const SamplingOptions& options)
      : options_(options), random_(options.seed, stream_of("generate")) {}
  // The id drawn; ties of the most probable go to the lowest id. Throws kNumerics when a logit is not finite.
  int32_t pick(std::span<const double> logits);

 private:
  SamplingOptions options_;
  Philox random_;
  uint64_t draws_ = 0;
  std::map<int32_t, int64_t> seen_;
};

}  // namespace rookery::eval
