// op_case.cpp: the checks of an OpCase. In fp64 against the reference and its numerical gradients; in fp32
// and bf16 against fp64; bits on repetition and over threads; gradients that add to what is there; plans of
// the arena, also on the meta device. Every block stands between guard bytes and starts as NaN.
#include "tests/support/op_case.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <iostream>
#include <limits>

#include "kernels/base/rng.h"
#include "kernels/cuda/device.h"
#include "kernels/emul/options.h"
#include "kernels/ops/backend.h"
#include "kernels/tensor/guard.h"

namespace rookery::test {
namespace {

constexpr double kExact = 1e-24;   // NMSE in fp64: another order of the same sums
constexpr int64_t kElements = 24;  // per input, differentiated one by one; the rest only along directions
constexpr int kDirections = 2;

struct Image {
  Shape shape;
  DType dtype = DType::kF64;
  bool tracked = false;
  std::vector<std::byte> bytes;
  Values values;
};

Image image_of(const Tensor& t, bool tracked) {
  Image image{t.shape(), t.dtype(), tracked, {}, {}};
  if (t.device().type() == DeviceType::kMeta) return image;
  image.bytes.resize(t.bytes());
  download(t, image.bytes.data());
  image.values = to_doubles(t);
  return image;
}

void expect_same_bits(const std::vector<Image>& a, const std::vector<Image>& b, std::string_view what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(a[i].shape == b[i].shape && a[i].bytes == b[i].bytes) << what << ", tensor " << i;
}

void expect_close(const std::vector<Image>& a, const std::vector<Image>& b, double bound,
                  std::string_view what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_LE(nmse(a[i].values, b[i].values), bound) << what << ", tensor " << i;
}

double as_bf16(double x) { return static_cast<float>(bf16(static_cast<float>(x))); }

double rms(const Values& x) {
  double sum = 0;
  for (const double v : x) sum += v * v;
  return x.empty() ? 0 : std::sqrt(sum / static_cast<double>(x.size()));
}

}  // namespace

std::vector<TestDevice> cpu_devices() {
  std::vector<TestDevice> devices;
  for (const CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512})
    if (cpu_isa_available(isa))
      devices.push_back({"cpu_" + to_string(isa), DeviceType::kCpu, [isa](int threads) {
                           return std::make_unique<Device>(DeviceType::kCpu, threads, isa);
                         }});
  return devices;
}

std::vector<TestDevice> op_case_devices() {
  std::vector<TestDevice> devices = cpu_devices();
#ifdef ROOKERY_HAVE_EMUL
  devices.push_back({"emul", DeviceType::kEmul,
                     [](int threads) { return std::make_unique<Device>(DeviceType::kEmul, threads); }});
#endif
  if (cuda::inspect().problem.empty())
    devices.push_back({"cuda", DeviceType::kCuda, [](int threads) {
                         cuda::DeviceOptions options;
                         options.num_threads = threads;
                         options.deterministic = true;
                         return cuda::make_device(options);
                       }});
  // ROOKERY_TEST_DEVICES: those alone, by name and with commas (scripts/gpu_check).
  if (const char* wanted = std::getenv("ROOKERY_TEST_DEVICES")) {
    const std::string list = str(",", wanted, ",");
    std::erase_if(devices, [&](const TestDevice& d) { return list.find("," + d.name + ",") == list.npos; });
    RK_CHECK(!devices.empty(), "ROOKERY_TEST_DEVICES=", wanted, ": none of them is here");
  }
  return devices;
}

double nmse(const Values& a, const Values& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return error == 0 ? 0 : error / size;
}

Values random_values(std::string_view name, int64_t count, Uniform range) {
  const Philox random(1, stream_of(name));
  Values values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(range.low + (range.high - range.low) * random.uniform(i));
  return values;
}

void OpCase::input(const std::string& name, const Shape& shape, Uniform range) {
  inputs_.push_back(
      {name, shape, DType::kF64, true, random_values(name_ + "." + name, shape.numel(), range)});
}

void OpCase::avoid(std::string_view name, double point, double distance) {
  for (Input& in : inputs_) {
    if (in.name != name) continue;
    for (double& v : in.values)
      if (std::abs(v - point) < distance)
        v = static_cast<float>(v < point ? point - distance : point + distance);
  }
}

void OpCase::constant(const std::string& name, const Shape& shape, const Values& values) {
  inputs_.push_back({name, shape, DType::kF64, false, values});
}

void OpCase::integers(const std::string& name, const Shape& shape, DType dtype, const Values& values) {
  inputs_.push_back({name, shape, dtype, false, values});
}

void OpCase::keep_f32(std::string_view name) {
  for (Input& in : inputs_) in.keep_f32 = in.keep_f32 || in.name == name;
}

OpCase OpCase::rounded_to_bf16() const {
  OpCase rounded = *this;
  rounded.bf16_numbers_ = true;
  for (Input& in : rounded.inputs_)
    if (is_float(in.dtype) && !in.keep_f32)
      for (double& v : in.values) v = as_bf16(v);
  return rounded;
}

double OpCase::bound(DType dtype) const {
  return dtype == DType::kF64 ? kExact : dtype == DType::kF32 ? f32_nmse : bf16_nmse;
}

// Seeds and gradients that are there already: in [-1, 1).
Values OpCase::numbers(std::string_view name, int64_t count) const {
  Values values = random_values(name, count, {-1, 1});
  if (bf16_numbers_)
    for (double& v : values) v = as_bf16(v);
  return values;
}

Tensor OpCase::random_tensor(std::string_view name, const Shape& shape, DType dtype, Device& device) const {
  const Values values = numbers(name, shape.numel());
  return tensor_from(std::span<const double>(values), shape, dtype, device);
}

std::vector<size_t> OpCase::differentiable() const {
  std::vector<size_t> which;
  for (size_t i = 0; i < inputs_.size(); ++i)
    if (inputs_[i].differentiable) which.push_back(i);
  return which;
}

// One way to call the op.
struct OpCase::Mode {
  bool parameters = false;  // inputs are leaves with a gradient buffer, else watched activations
  bool existing = false;    // each input has a gradient already: random_tensor("existing")
  bool twice = false;       // the op is called twice on the same inputs
  int only = -1;            // the one input (by position) that is tracked; -1: every one
  bool in_step = false;     // as a step of the arena
};

// What it left behind: the outputs, and the gradient of each tracked input in their order.
struct OpCase::Run {
  std::vector<Image> outputs, grads;
};

OpCase::Run OpCase::execute(Device& device, DType dtype, const Mode& mode) const {
  Run result;
  Tape tape;
  std::deque<Parameter> parameters;
  std::vector<Tensor> tensors;
  std::vector<Var> tracked;
  std::vector<std::pair<Var, Tensor>> seeds;
  Named<Var> vars;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const Input& in = inputs_[i];
    const DType own = !is_float(in.dtype)                    ? in.dtype
                      : dtype == DType::kBF16 && in.keep_f32 ? DType::kF32
                                                             : dtype;
    tensors.push_back(tensor_from(std::span<const double>(in.values), in.shape, own, device));
    const bool wanted = in.differentiable && (mode.only < 0 || mode.only == static_cast<int>(i));
    Var var(tensors.back());
    if (mode.parameters && in.differentiable) {
      Parameter& p = parameters.emplace_back();
      p.name = in.name;
      p.global = in.shape;
      p.master = tensors.back();
      p.trainable = wanted;
      p.grad_written = mode.existing;
      p.grad = random_tensor("existing", in.shape, own == DType::kBF16 ? DType::kF32 : own, device);
      var = tape.leaf(p);
    } else if (wanted) {
      var = tape.watch(tensors.back());
      if (mode.existing) seeds.emplace_back(var, random_tensor("existing", in.shape, own, device));
    }
    if (wanted) tracked.push_back(var);
    vars.items.emplace(in.name, var);
  }

  if (mode.in_step) device.arena().begin_step("case");
  for (int call = 0; call < (mode.twice ? 2 : 1); ++call) {
    const std::vector<Var> outputs = run(vars);
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (call == 0) result.outputs.push_back(image_of(outputs[i].value(), outputs[i].tracked()));
      if (outputs[i].tracked())
        seeds.emplace_back(outputs[i], random_tensor("seed" + std::to_string(i), outputs[i].shape(),
                                                     outputs[i].value().dtype(), device));
    }
  }
  tape.backward(std::span<const std::pair<Var, Tensor>>(seeds));
  seeds.clear();
  if (mode.parameters) {
    for (const Parameter& p : parameters) {
      if (p.trainable) {
        result.grads.push_back(image_of(p.grad, true));
      } else {
        EXPECT_EQ(to_doubles(p.grad), numbers("existing", p.grad.numel()))
            << "a frozen parameter got a gradient: " << p.name;
      }
    }
  } else {
    for (const Var& var : tracked) {
      EXPECT_TRUE(tape.grad(var).defined()) << "a tracked input got no gradient";
      if (tape.grad(var).defined()) result.grads.push_back(image_of(tape.grad(var), true));
    }
  }
  // The tape's last tensors (gradients of inputs) belong to the step and die after it, as those of a
  // training step's batch would.
  if (mode.in_step) device.arena().end_step();
  for (size_t i = 0; i < inputs_.size() && device.type() != DeviceType::kMeta; ++i)
    EXPECT_EQ(to_doubles(tensors[i]), inputs_[i].values) << "input changed: " << inputs_[i].name;
  return result;
}

void OpCase::check_reference(const Run& exact) const {
  Named<Values> values;
  for (const Input& in : inputs_) values.items.emplace(in.name, in.values);
  const std::vector<Values> expected = reference(values);
  ASSERT_EQ(expected.size(), exact.outputs.size());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_LE(nmse(exact.outputs[i].values, expected[i]), kExact) << "output " << i << " in f64";
}

// The derivative of sum(seed * output) along a direction in one input, by central differences of order 4.
void OpCase::check_gradients(const Run& exact) const {
  const auto& outputs_of = gradient_reference ? gradient_reference : reference;
  Named<Values> values;
  for (const Input& in : inputs_) values.items.emplace(in.name, in.values);
  auto projection = [&] {
    const std::vector<Values> outputs = outputs_of(values);
    double sum = 0;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!exact.outputs[i].tracked) continue;
      const Values seed = numbers("seed" + std::to_string(i), static_cast<int64_t>(outputs[i].size()));
      for (size_t j = 0; j < seed.size(); ++j) sum += seed[j] * outputs[i][j];
    }
    return sum;
  };
  const std::vector<size_t> inputs = differentiable();
  ASSERT_EQ(inputs.size(), exact.grads.size());
  for (size_t k = 0; k < inputs.size(); ++k) {
    const Input& in = inputs_[inputs[k]];
    const Values& gradient = exact.grads[k].values;
    Values& moved = values.items.find(in.name)->second;
    auto expect_slope = [&](const Values& direction, const std::string& where) {
      auto at = [&](double h) {
        for (size_t i = 0; i < moved.size(); ++i) moved[i] = in.values[i] + h * direction[i];
        return projection();
      };
      const double slope = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
      moved = in.values;
      double found = 0, length = 0;
      for (size_t i = 0; i < direction.size(); ++i) {
        found += gradient[i] * direction[i];
        length += direction[i] * direction[i];
      }
      EXPECT_NEAR(found, slope, gradient_error * std::max(std::abs(slope), rms(gradient) * std::sqrt(length)))
          << "gradient of " << in.name << " " << where;
    };
    const int64_t n = in.shape.numel();
    for (int64_t i = 0; i < std::min(n, kElements); ++i) {
      const int64_t element = n <= kElements ? i : (i * n + n / 2) / kElements;
      Values direction(static_cast<size_t>(n), 0.0);
      direction[static_cast<size_t>(element)] = 1;
      expect_slope(direction, "at element " + std::to_string(element));
    }
    for (int d = 0; d < kDirections; ++d)
      expect_slope(random_values(in.name + std::to_string(d), n, {-1, 1}),
                   "along direction " + std::to_string(d));
  }
}

// However a gradient reaches an input (overwrite, add to a parameter's, add to an activation's that is shared
// or its own), it is the same gradient.
void OpCase::check_accumulation(Device& device, DType dtype) const {
  const Run plain = execute(device, dtype, {});
  auto expect_grads = [&](const Mode& mode, double times, std::string_view what) {
    const Run other = execute(device, dtype, mode);
    expect_same_bits(other.outputs, plain.outputs, what);
    ASSERT_EQ(other.grads.size(), plain.grads.size()) << what;
    for (size_t i = 0; i < plain.grads.size(); ++i) {
      const Values& gradient = plain.grads[i].values;
      Values expected = mode.existing ? numbers("existing", static_cast<int64_t>(gradient.size()))
                                      : Values(gradient.size(), 0.0);
      double added = 0;
      for (size_t j = 0; j < expected.size(); ++j) {
        added += std::pow(std::abs(expected[j]) + std::abs(times * gradient[j]), 2);
        expected[j] += times * gradient[j];
      }
      if (dtype != DType::kBF16) {
        EXPECT_LE(nmse(other.grads[i].values, expected), bound(dtype)) << what << ", input " << i;
        continue;
      }
      // Both the gradient and the sum are rounded to 2^-9 of themselves, and a sum of few elements may be
      // near 0: relative to what is added up.
      double error = 0;
      for (size_t j = 0; j < expected.size(); ++j)
        error += std::pow(other.grads[i].values[j] - expected[j], 2);
      EXPECT_LE(error, 4 * bound(dtype) * added) << what << ", input " << i;
    }
  };
  expect_grads({.parameters = true}, 1, "parameters");
  expect_grads({.parameters = true, .existing = true}, 1, "parameters with a gradient");
  expect_grads({.existing = true}, 1, "activations with a shared gradient");
  expect_grads({.twice = true}, 2, "activations used twice");
  expect_grads({.parameters = true, .twice = true}, 2, "parameters used twice");
  const std::vector<size_t> inputs = differentiable();
  for (size_t i = 0; i < inputs.size(); ++i) {
    for (const bool as_parameters : {false, true}) {
      const Run alone =
          execute(device, dtype, {.parameters = as_parameters, .only = static_cast<int>(inputs[i])});
      expect_same_bits(alone.outputs, plain.outputs, "one input tracked");
      expect_close(alone.grads, {plain.grads[i]}, bound(dtype),
                   "gradient of " + inputs_[inputs[i]].name + " alone");
    }
  }
}

// A step that is recorded and replayed gives the same bits, and the meta device foretells its plan.
void OpCase::check_plan(Device& device, DType dtype, int threads) const {
  const Run plain = execute(device, dtype, {});
  device.arena().on_replan = [](const std::string& why) { ADD_FAILURE() << why; };
  for (int i = 0; i < 3; ++i) {
    const Run planned = execute(device, dtype, {.in_step = true});
    expect_same_bits(planned.outputs, plain.outputs, "outputs of a step");
    expect_same_bits(planned.grads, plain.grads, "gradients of a step");
  }
  Device meta(DeviceType::kMeta, threads);
  meta.plans_for = device.type();
  const Run shapes = execute(meta, dtype, {.in_step = true});
  for (size_t i = 0; i < plain.outputs.size(); ++i) {
    EXPECT_EQ(to_string(shapes.outputs[i].shape), to_string(plain.outputs[i].shape)) << "meta output " << i;
    EXPECT_EQ(shapes.outputs[i].dtype, plain.outputs[i].dtype) << "meta output " << i;
  }
  const Arena::Plan* found = meta.arena().plan("case");
  const Arena::Plan* expected = device.arena().plan("case");
  ASSERT_TRUE(found != nullptr && expected != nullptr);
  EXPECT_EQ(found->requests, expected->requests);
  EXPECT_EQ(found->total_bytes, expected->total_bytes);
  EXPECT_EQ(found->peak_bytes, expected->peak_bytes);
  EXPECT_EQ(found->slab_bytes, expected->slab_bytes);
}

void OpCase::check_cpu(const TestDevice& test_device, const Run& exact) const {
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    SCOPED_TRACE(to_string(dtype));
    Run one_thread;
    for (const int threads : {1, 2, 3}) {
      SCOPED_TRACE(str(threads, " threads"));
      const auto device = test_device.make(threads);
      device->arena().guard_blocks();
      const Run once = execute(*device, dtype, {});
      const Run again = execute(*device, dtype, {});
      expect_same_bits(again.outputs, once.outputs, "outputs on repetition");
      expect_same_bits(again.grads, once.grads, "gradients on repetition");
      if (threads == 1) {
        one_thread = once;
        expect_close(once.outputs, exact.outputs, bound(dtype), "outputs against the portable f64 ones");
        expect_close(once.grads, exact.grads, bound(dtype), "gradients against the portable f64 ones");
      } else if (bits_depend_on_threads) {
        expect_close(once.outputs, one_thread.outputs, bound(dtype), "outputs at several threads");
        expect_close(once.grads, one_thread.grads, bound(dtype), "gradients at several threads");
      } else {
        expect_same_bits(once.outputs, one_thread.outputs, "outputs at several threads");
        expect_same_bits(once.grads, one_thread.grads, "gradients at several threads");
      }
      if (threads == 2) {
        check_accumulation(*device, dtype);
        check_plan(*test_device.make(threads), dtype, threads);
      }
      EXPECT_EQ(device->arena().damaged_blocks(), 0) << "written past the end or before the start";
    }
  }
}

// `exact` in f64 from the same inputs.
void OpCase::check_gpu(const TestDevice& test_device, DType dtype, const Run& exact) const {
  SCOPED_TRACE(to_string(dtype));
  const GuardWatch watch(emulator::forbid_memory);
  const auto device = test_device.make(1);
  device->arena().guard_blocks();
  const Run once = execute(*device, dtype, {});
  expect_close(once.outputs, exact.outputs, bound(dtype), "outputs against f64");
  expect_close(once.grads, exact.grads, bound(dtype), "gradients against f64");
  for (size_t i = 0; i < once.outputs.size(); ++i)
    EXPECT_EQ(once.outputs[i].dtype,
              dtype != DType::kBF16 || bf16_outputs.empty() ? dtype : bf16_outputs.at(i))
        << "output " << i;
  // On emul the run above looked for races, which any order shows and which takes most of the time. From here
  // on the threads of a block take turns in other orders: a result that follows them has a fault.
  using emulator::Order;
  emulator::Options options;
  options.races = false;
  const emulator::ScopedOptions without_races(options);
  for (const Order order : {Order::kAscending, Order::kDescending, Order::kLastLanesFirst,
                            Order::kOneWarpAhead, Order::kRandom}) {
    options.order = order;
    options.shuffle_blocks = order != Order::kAscending;
    const emulator::ScopedOptions scope(options);
    const Run again = execute(*device, dtype, {});
    expect_same_bits(again.outputs, once.outputs, "outputs on repetition");
    expect_same_bits(again.grads, once.grads, "gradients on repetition");
  }
  check_accumulation(*device, dtype);
  check_plan(*test_device.make(1), dtype, 1);
  EXPECT_EQ(device->arena().damaged_blocks(), 0) << "written past the end or before the start";
}

std::function<bool()> OpCase::on_emul(DType dtype) const {
  const auto own = std::make_shared<const OpCase>(dtype == DType::kBF16 ? rounded_to_bf16() : *this);
  Device cpu(DeviceType::kCpu, 1, CpuIsa::kPortable);
  const auto exact = std::make_shared<const Run>(own->execute(cpu, DType::kF64, {}));
  const auto first = std::make_shared<Run>();
  return [=] {
    const GuardWatch watch(emulator::forbid_memory);
    Device device(DeviceType::kEmul, 1);
    device.arena().guard_blocks();
    const Run run = own->execute(device, dtype, {});
    if (first->outputs.empty()) *first = run;
    bool good = device.arena().damaged_blocks() == 0;
    const auto compare = [&](const std::vector<Image>& found, const std::vector<Image>& near,
                             const std::vector<Image>& same) {
      good = good && found.size() == near.size() && found.size() == same.size();
      for (size_t i = 0; good && i < found.size(); ++i)
        good = found[i].bytes == same[i].bytes && nmse(found[i].values, near[i].values) <= own->bound(dtype);
    };
    compare(run.outputs, exact->outputs, first->outputs);
    compare(run.grads, exact->grads, first->grads);
    return good;
  };
}

void OpCase::check() const {
  SCOPED_TRACE(name_);
  Device first(DeviceType::kCpu, 1, CpuIsa::kPortable);
  const Run exact = execute(first, DType::kF64, {});
  check_reference(exact);
  check_gradients(exact);
  const OpCase rounded = rounded_to_bf16();
  const Run rounded_exact = rounded.execute(first, DType::kF64, {});
  for (const TestDevice& test_device : op_case_devices()) {
    SCOPED_TRACE(test_device.name);
    if (test_device.type == DeviceType::kCpu) {
      check_cpu(test_device, exact);
      continue;
    }
    try {
      check_gpu(test_device, DType::kF32, exact);
      rounded.check_gpu(test_device, DType::kBF16, rounded_exact);
    } catch (const Error& e) {
      if (e.id() != kNoKernel) throw;
      std::cout << name_ << " is pending on " << test_device.name << ": " << e.what() << "\n";
    }
  }
}

}  // namespace rookery::test
