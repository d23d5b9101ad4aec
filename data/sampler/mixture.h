// mixture.h: samples from several sources by weight, as a pure function of the sample number.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rookery::data {

// Splits the sample numbers 0, 1, 2, ... among sources so that after any number of samples each source has
// had its share to within the number of sources. Level k of a chain of Beatty sequences decides between
// source k and those after it, in exact integers, so that both the choice and the rank of the sample within
// its source cost O(sources) and no state.
class Mixture {
 public:
  // Weights are shares of the tokens, of any positive sum. kConfig (DATA-20) for none, a zero, negative or
  // non-finite weight.
  Mixture(const std::vector<double>& weights, const std::vector<std::string>& names);

  struct Choice {
    size_t source = 0;
    int64_t sample = 0;  // the source's own sample number
  };
  Choice at(int64_t sample) const;
  // How many of the first n samples each source gets.
  std::vector<int64_t> counts(int64_t n) const;

 private:
  std::vector<uint64_t> shares_;  // of what the sources before left over, in units of 2^-32
};

}  // namespace rookery::data
