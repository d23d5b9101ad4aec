// op_case.h: one harness for all operations. A case says what goes in, how the op is called and what it must
// give, in plain fp64 loops from the formula; check() does the rest on every device of op_case_devices().
// Where an op has no kernel for one of them, check() says so and goes on (gpu_kernels_test.cpp lists them).
// What is checked, and how: op_case.cpp, top down.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/autograd/autograd.h"

namespace rookery::test {

using Values = std::vector<double>;
using Outputs = std::vector<Values>;

struct Uniform {
  double low, high;
};

// Tensors or values by the names that the case gave them.
template <class T>
class Named {
 public:
  const T& operator[](std::string_view name) const {
    const auto it = items.find(name);
    RK_CHECK(it != items.end(), "[OpCase] no input '", name, "'");
    return it->second;
  }
  std::map<std::string, T, std::less<>> items;
};

// Where each case runs; further backends are added here.
struct TestDevice {
  std::string name;
  DeviceType type;
  std::function<std::unique_ptr<Device>(int threads)> make;
};

class OpCase {
 public:
  explicit OpCase(std::string name) : name_(std::move(name)) {}
  const std::string& name() const { return name_; }

  // A float input whose gradient is checked. The values are exact in float, so that every dtype sees the
  // same.
  void input(const std::string& name, const Shape& shape, Uniform range);
  // Moves samples of `name` that are nearer than `distance` to `point` (a kink) away to that distance.
  void avoid(std::string_view name, double point, double distance);
  void constant(const std::string& name, const Shape& shape, const Values& values);  // a float, no gradient
  void integers(const std::string& name, const Shape& shape, DType dtype, const Values& values);

  // On devices with bf16 (emul, cuda) float inputs and outputs are bf16, gradients of parameters f32. Except
  // for inputs named here, and outputs by `bf16_outputs` (one dtype each), where it is not empty: states,
  // statistics and losses stay f32.
  void keep_f32(std::string_view name);
  std::vector<DType> bf16_outputs;

  std::function<std::vector<Var>(const Named<Var>&)> run;
  std::function<Outputs(const Named<Values>&)> reference;  // one per output of `run`
  // The outputs that the gradients belong to, where an op adds to its gradient what its value does not show.
  std::function<Outputs(const Named<Values>&)> gradient_reference;

  double f32_nmse = 1e-12;              // of outputs and gradients: a few hundred roundings of 6e-8
  double bf16_nmse = 1.6e-5;            // the same in bf16: a relative RMS of 4e-3, a few roundings of 2^-9
  double step = 1e-3;                   // of the central differences
  double gradient_error = 1e-7;         // relative; truncation and rounding at this step are both below 1e-9
  bool bits_depend_on_threads = false;  // sums over rows are split: equal to rounding only

  void check() const;

  // A function that runs the case on emul, in this dtype: false where the results are not near those of the
  // CPU in f64, or have other bits than at the first call. Needs no reference.
  std::function<bool()> on_emul(DType dtype) const;

 private:
  struct Input {
    std::string name;
    Shape shape;
    DType dtype;  // of integers; floats take the dtype of the run
    bool differentiable;
    Values values;
    bool keep_f32 = false;
  };
  struct Mode;
  struct Run;
  OpCase rounded_to_bf16() const;
  double bound(DType dtype) const;
  Values numbers(std::string_view name, int64_t count) const;
  Tensor random_tensor(std::string_view name, const Shape& shape, DType dtype, Device& device) const;
  Run execute(Device& device, DType dtype, const Mode& mode) const;
  void check_reference(const Run& exact) const;
  void check_gradients(const Run& exact) const;
  void check_accumulation(Device& device, DType dtype) const;
  void check_plan(Device& device, DType dtype, int threads) const;
  void check_cpu(const TestDevice& test_device, const Run& exact) const;
  void check_gpu(const TestDevice& test_device, DType dtype, const Run& exact) const;
  std::vector<size_t> differentiable() const;

  std::string name_;
  std::vector<Input> inputs_;
  bool bf16_numbers_ = false;  // whatever is drawn at random is exact in bf16
};

std::vector<TestDevice> cpu_devices();      // one for each instruction set of this processor
std::vector<TestDevice> op_case_devices();  // these, and those for kernels of the GPU

// |a - b|^2 / |b|^2; zero against zero is 0.
double nmse(const Values& a, const Values& b);

// `count` numbers in [low, high), exact in float, a pure function of the name.
Values random_values(std::string_view name, int64_t count, Uniform range);

}  // namespace rookery::test
