// bench.h: what the benchmarks share.
#pragma once

#include <vector>

namespace rookery::cli {

double median(std::vector<double> values);  // at least one

}  // namespace rookery::cli
