// bench_ops.h: the operations that `rookery bench op` runs, with their least work. The command: bench_op.cpp.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/autograd/autograd.h"

namespace rookery::cli {

struct OpSizes {
  int64_t B, T, C, H, N, F, V, D, P;  // P: parameters of the optimizer
  int64_t rows() const { return B * T; }
};

// What a pass cannot do without.
struct Work {
  double bytes = 0;          // of tensors read and written once each
  double flops = 0;          // in matrix products
  double multiply_adds = 0;  // in the state recurrence
  double exponentials = 0;
};

// Calls the op once: on the tape, or with its own effect where it has no gradient.
using Call = std::function<std::vector<Var>(Tape&)>;

struct OpBench {
  std::string name, shape;
  Work forward, backward;
  std::function<Call()> prepare;  // makes the inputs
};

// Makes the inputs of all operations, in one float dtype.
class Inputs {
 public:
  Inputs(Device& device, DType dtype) : device_(device), dtype_(dtype) {}
  Tensor random(const Shape& shape, double scale = 1) { return random(shape, scale, dtype_); }
  Tensor random(const Shape& shape, double scale, DType dtype);
  Tensor ones(const Shape& shape, DType dtype) const;
  Tensor ids(const Shape& shape, int64_t below);
  // A parameter; each call overwrites its gradient.
  std::function<Var(Tape&)> weight(const Shape& shape, double scale = 1);
  Device& device() const { return device_; }
  DType dtype() const { return dtype_; }

 private:
  Tensor filled(const Shape& shape, DType dtype, const std::vector<double>& numbers) const;
  Device& device_;
  DType dtype_;
  uint64_t stream_ = 0;
};

// Makes nothing until OpBench::prepare is called.
std::vector<OpBench> all_ops(const OpSizes& sizes, const std::shared_ptr<Inputs>& inputs);

}  // namespace rookery::cli
