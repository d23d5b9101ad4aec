// mixture.cpp: the chain of Beatty sequences.
#include "data/sampler/mixture.h"

#include <cmath>

#include "kernels/base/error.h"

namespace rookery::data {

namespace {

// Of the first n numbers that reach a level, how many it takes.
int64_t taken(int64_t n, uint64_t share) {
  return static_cast<int64_t>(static_cast<unsigned __int128>(n) * share >> 32);
}

}  // namespace

Mixture::Mixture(const std::vector<double>& weights, const std::vector<std::string>& names) {
  RK_CHECK(weights.size() == names.size(), "[Mixture] ", weights.size(), " weights for ", names.size(),
           " names");
  if (weights.empty()) fail(ExitCode::kConfig, "DATA-20", "no data source is given");
  double rest = 0;
  for (size_t k = weights.size(); k-- > 0;) {
    if (!(weights[k] > 0) || !std::isfinite(weights[k]))
      fail(ExitCode::kConfig, "DATA-20", "data source ", names[k], " has weight ", weights[k],
           ", expected a positive number: remove the source to leave it out");
    rest += weights[k];
    double share = weights[k] / rest;
    shares_.insert(shares_.begin(), static_cast<uint64_t>(std::llround(share * 0x1p32)));
    if (shares_.front() == 0 || !std::isfinite(rest))
      fail(ExitCode::kConfig, "DATA-20", "data source ", names[k], " has weight ", weights[k], " of ", rest,
           ", expected a share of at least 2^-32");
  }
}

Mixture::Choice Mixture::at(int64_t sample) const {
  int64_t n = sample;
  for (size_t k = 0;; ++k) {
    const int64_t before = taken(n, shares_[k]);
    if (k + 1 == shares_.size() || taken(n + 1, shares_[k]) > before)
      return {k, k + 1 == shares_.size() ? n : before};
    n -= before;
  }
}

std::vector<int64_t> Mixture::counts(int64_t n) const {
  std::vector<int64_t> result;
  for (size_t k = 0; k < shares_.size(); ++k) {
    result.push_back(k + 1 == shares_.size() ? n : taken(n, shares_[k]));
    n -= result.back();
  }
  return result;
}

}  // namespace rookery::data
