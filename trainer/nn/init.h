// init.h: the initial values of parameters (rwkv-common 6). Each is a pure function of (seed, parameter
// name), so it does not depend on ranks, threads or the order of construction.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "kernels/base/rng.h"
#include "kernels/tensor/tensor.h"

namespace rookery::nn {

// Fills the global tensor in fp32 (later widened where the master is fp64).
using Init = std::function<void(std::span<float> out, const Shape& shape, const Philox& random)>;

Init constant(double value);
Init uniform(double low, double high);
Init normal(double deviation);  // mean 0
// (Semi-)orthogonal matrix times gain: the smaller dimension has orthonormal vectors. Two dims only.
Init orthogonal(double gain);
// value(i) of flat element i.
Init values(std::function<float(int64_t)> value);

}  // namespace rookery::nn
