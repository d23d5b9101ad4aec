// accelerator_test.cpp: tensors, arena and tape on a GPU that is a piece of host memory, which the test alone
// reads; and what is said of GPUs that cannot be used.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>

#include "kernels/autograd/autograd.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/elementwise.h"

namespace rookery {
namespace {

using Values = std::vector<double>;

// Addresses are those of host memory shifted, so that whoever reads them on the host fails.
class FakeGpu : public Accelerator {
 public:
  explicit FakeGpu(size_t bytes) : total_(bytes) {}
  std::string name() const override { return "fake GPU"; }
  void* stream() const override { return nullptr; }
  void synchronize() override {}
  std::byte* allocate(size_t bytes) override {
    if (used_ + bytes > total_) return nullptr;
    used_ += bytes;
    auto* data = static_cast<std::byte*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
    sizes_[data] = bytes;
    return data + kShift;
  }
  void free(std::byte* data) noexcept override {
    used_ -= sizes_.at(data - kShift);
    sizes_.erase(data - kShift);
    std::free(data - kShift);
  }
  Memory memory() const override { return {total_ - used_, total_}; }
  void upload(const void* host, std::byte* to, size_t bytes) override {
    std::memcpy(to - kShift, host, bytes);
    ++uploads;
  }
  void download(const std::byte* from, void* host, size_t bytes) override {
    std::memcpy(host, from - kShift, bytes);
  }
  std::unique_ptr<Pending> begin_download(const std::byte* from, size_t bytes) override {
    struct Done : Pending {
      const std::byte* wait() override { return bytes.data(); }
      std::vector<std::byte> bytes;
    };
    auto done = std::make_unique<Done>();
    done->bytes.assign(from - kShift, from - kShift + bytes);
    return done;
  }
  void copy(const std::byte* from, std::byte* to, size_t bytes) override {
    std::memcpy(to - kShift, from - kShift, bytes);
  }
  void copy_rows(const std::byte* from, size_t from_pitch, std::byte* to, size_t to_pitch, size_t bytes,
                 size_t rows) override {
    for (size_t row = 0; row < rows; ++row) copy(from + row * from_pitch, to + row * to_pitch, bytes);
  }
  void fill(std::byte* to, unsigned char value, size_t bytes) override {
    std::memset(to - kShift, value, bytes);
  }
  void convert(const Tensor& from, const Tensor& to) override {
    for (int64_t i = 0; i < from.numel(); ++i)
      put_element(to.raw() - kShift, to.dtype(), static_cast<size_t>(i),
                  to_doubles(from)[static_cast<size_t>(i)]);
  }
  void sum(const Tensor& a, const Tensor& b, const Tensor& out) override {
    const Values x = to_doubles(a), y = to_doubles(b);
    for (size_t i = 0; i < x.size(); ++i) put_element(out.raw() - kShift, out.dtype(), i, x[i] + y[i]);
  }
  std::unique_ptr<Replay> capture(const std::function<void()>& work) override {
    work();
    return nullptr;
  }
  // Its clock: a second passes from mark to mark.
  std::unique_ptr<Mark> mark() override {
    struct Second : Mark {
      explicit Second(int at) : number(at) {}
      double seconds_since(const Mark& earlier) const override {
        return number - static_cast<const Second&>(earlier).number;
      }
      int number;
    };
    return std::make_unique<Second>(marks++);
  }
  void begin_range(const std::string& name) override { ranges.push_back(name); }
  void end_range() override {}

  std::vector<std::string> ranges;
  int uploads = 0, marks = 0;

 private:
  static constexpr ptrdiff_t kShift = ptrdiff_t{1} << 46;
  size_t total_, used_ = 0;
  std::map<std::byte*, size_t> sizes_;
};

struct Gpu {
  explicit Gpu(size_t bytes) : fake(new FakeGpu(bytes)), device(std::unique_ptr<Accelerator>(fake), 1) {}
  FakeGpu* fake;
  Device device;
};

Tensor tensor(const Values& values, DType dtype, Device& device) {
  return tensor_from(std::span<const double>(values), {static_cast<int64_t>(values.size())}, dtype, device);
}

TEST(Accelerator, TensorsGoThereAndBack) {
  Gpu gpu(1 << 20);
  Device cpu(DeviceType::kCpu, 1);
  const Values exact = {0, -1.5, 3, 260};
  for (const DType there : {DType::kF32, DType::kBF16}) {
    const Tensor on_gpu = tensor(exact, there, gpu.device);
    EXPECT_EQ(to_doubles(on_gpu), exact);
    EXPECT_EQ(Readback(on_gpu).values(), exact);
    for (const DType here : {DType::kF64, DType::kF32, DType::kBF16}) {
      const Tensor back = empty({4}, here, cpu), again = empty({4}, there, gpu.device);
      copy(on_gpu, back);
      EXPECT_EQ(to_doubles(back), exact);
      copy(back, again);
      EXPECT_EQ(to_doubles(again), exact);
    }
  }
  const Tensor wide = empty({4}, DType::kF32, gpu.device);
  copy(tensor(exact, DType::kBF16, gpu.device), wide);
  EXPECT_EQ(to_doubles(wide), exact);
  EXPECT_EQ(to_doubles(zeros({3}, DType::kF32, gpu.device)), (Values{0, 0, 0}));
}

TEST(Accelerator, ColumnsAreCopiedThere) {
  Gpu gpu(1 << 20);
  Device cpu(DeviceType::kCpu, 1);
  for (Device* device : {&gpu.device, &cpu}) {
    const Tensor from = tensor({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, DType::kF32, *device);
    const Tensor to = zeros({2, 4, 2}, DType::kF32, *device);
    copy_columns(from.reshape({2, 3, 2}), 1, 2, to, 1);
    EXPECT_EQ(to_doubles(to), (Values{0, 0, 2, 3, 4, 5, 0, 0, 0, 0, 8, 9, 10, 11, 0, 0}));
    copy_columns(from.reshape({2, 3, 2}), 0, 0, to, 4);
    EXPECT_THROW(copy_columns(from.reshape({2, 3, 2}), 2, 2, to, 0), Error);
    EXPECT_THROW(copy_columns(from.reshape({2, 2, 3}), 0, 1, to, 0), Error);
  }
}

TEST(Accelerator, AssignedTensorsKeepTheirAddress) {
  Gpu gpu(1 << 20);
  Tensor t;
  const std::vector<int32_t> first{1, 2, 3}, second{4, 5, 6}, longer{7, 8, 9, 10};
  assign(t, std::span(first), {3}, gpu.device);
  const std::byte* address = t.raw();
  assign(t, std::span(second), {3}, gpu.device);
  EXPECT_EQ(t.raw(), address);
  EXPECT_EQ(to_doubles(t), (Values{4, 5, 6}));
  assign(t, std::span(longer), {2, 2}, gpu.device);
  EXPECT_EQ(to_doubles(t), (Values{7, 8, 9, 10}));
}

TEST(Accelerator, TapeAddsGradientsThere) {
  Gpu gpu(1 << 20);
  Tape tape;
  const Var x = tape.watch(tensor({1, 2}, DType::kF32, gpu.device));
  const Var y = record("twice", {x, x}, sum_of(x.value(), x.value()), [](const Tensor& dy, Grads& g) {
    g.give(0, dy);
    g.give(1, dy);
  });
  const Tensor seed = tensor({3, 4}, DType::kF32, gpu.device);
  tape.backward(y, &seed);
  EXPECT_EQ(to_doubles(y.value()), (Values{2, 4}));
  EXPECT_EQ(to_doubles(tape.grad(x)), (Values{6, 8}));
  EXPECT_EQ(gpu.fake->ranges, std::vector<std::string>{"twice"});
}

TEST(Accelerator, StepsReplayTheirPlanThere) {
  Gpu gpu(1 << 20);
  Arena& arena = gpu.device.arena();
  std::vector<std::byte*> addresses;
  for (int step = 0; step < 3; ++step) {
    arena.begin_step("step");
    {
      const Tensor a = empty({100}, DType::kF32, gpu.device);
      { const Tensor b = empty({50}, DType::kF32, gpu.device); }
      const Tensor c = empty({50}, DType::kF32, gpu.device);
      addresses.push_back(c.raw());
    }
    arena.end_step();
  }
  EXPECT_EQ(addresses[1], addresses[2]);
}

TEST(Accelerator, OverwrittenGuardsAreFound) {
  Gpu gpu(1 << 20);
  gpu.device.arena().guard_blocks();
  {
    const Tensor t = empty({3}, DType::kF32, gpu.device);
    EXPECT_TRUE(std::isnan(to_doubles(t)[0]));
    gpu.fake->fill(t.raw() + t.bytes(), 0, 1);
  }
  EXPECT_EQ(gpu.device.arena().damaged_blocks(), 1);
}

// A step under a new key, which takes its memory piece by piece, has room where the slab of another lies
// idle.
TEST(Accelerator, AnIdleSlabMakesRoom) {
  Gpu gpu(10 << 20);
  Arena& arena = gpu.device.arena();
  auto step = [&](const char* key) {
    arena.begin_step(key);
    { const Tensor t = empty({6 << 20}, DType::kU8, gpu.device); }
    arena.end_step();
  };
  for (int i = 0; i < 3; ++i) step("train");
  EXPECT_TRUE(arena.repeats("train"));
  const std::byte* slab = arena.slab();
  EXPECT_NE(slab, nullptr);
  step("eval");
  EXPECT_EQ(arena.slab(), nullptr);
  EXPECT_FALSE(arena.repeats("train"));
  for (const char* key : {"train", "eval", "train"}) step(key);
  EXPECT_TRUE(arena.repeats("train"));
}

TEST(Accelerator, OutOfMemoryTellsWhoHoldsIt) {
  Gpu gpu(10 << 20);
  const Arena::Owner owner(gpu.device.arena(), "parameters");
  const Tensor weights = empty({3 << 20}, DType::kU8, gpu.device);
  try {
    empty({8 << 20}, DType::kU8, gpu.device);
    FAIL() << "8 MiB where 7 are free";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kUnavailable);
    EXPECT_EQ(e.id(), "MEM-03");
    const std::string what = e.what();
    EXPECT_NE(what.find("fake GPU: out of memory: asked for 8 MiB, free are 7 MiB of 10 MiB"),
              std::string::npos)
        << what;
    EXPECT_NE(what.find("parameters 3 MiB (3 MiB)"), std::string::npos) << what;
  }
  // Blocks that a step keeps for later are given back first.
  gpu.device.arena().begin_step("step");
  { const Tensor t = empty({4 << 20}, DType::kU8, gpu.device); }
  { const Tensor t = empty({5 << 20}, DType::kU8, gpu.device); }
  gpu.device.arena().end_step();
}

#ifdef ROOKERY_HAVE_EMUL
TEST(Elementwise, AsOnTheHost) {
  Device emulated(DeviceType::kEmul, 1);
  for (const int64_t n : {1, 7, 8, 100, 2049}) {
    Values x(static_cast<size_t>(n)), y(x);
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = 1.0 / static_cast<double>(i + 3);
      y[i] = 100 - static_cast<double>(i);
    }
    // From the second element on: no address is aligned.
    for (const int64_t first : {0, 1}) {
      if (n <= first) continue;
      auto part = [&](const Tensor& t) { return t.narrow(first, n - first); };
      for (const DType a : {DType::kF32, DType::kBF16}) {
        for (const DType b : {DType::kF32, DType::kBF16}) {
          const Tensor from = part(tensor(x, a, emulated)), to = part(tensor(y, b, emulated));
          const Tensor found = part(tensor(y, b, emulated));
          copy(from, to);
          emul::convert({from, found});
          EXPECT_EQ(to_doubles(found), to_doubles(to)) << n << str(a, " to ", b);
          if (a == DType::kBF16 && b == DType::kF32) continue;
          const Tensor sum = part(tensor(x, a, emulated));
          emul::sum({from, to, sum});
          const Tensor expected = part(tensor(x, a, emulated));
          add_to(to, expected);
          EXPECT_EQ(to_doubles(sum), to_doubles(expected)) << n << str(a, " + ", b);
        }
      }
    }
  }
}
#endif

TEST(Gpus, ArchitecturesThatFit) {
  EXPECT_TRUE(cuda::runs_on("90a", 9, 0));
  EXPECT_FALSE(cuda::runs_on("90a", 10, 0));  // machine code of one architecture
  EXPECT_FALSE(cuda::runs_on("90a", 8, 0));
  EXPECT_TRUE(cuda::runs_on("80;90a", 8, 6));
  EXPECT_TRUE(cuda::runs_on("80", 12, 0));  // the driver translates it
  EXPECT_TRUE(cuda::runs_on("80-virtual", 9, 0));
  EXPECT_TRUE(cuda::runs_on("80-real", 8, 9));
  EXPECT_FALSE(cuda::runs_on("80-real;86-real", 9, 0));
  EXPECT_FALSE(cuda::runs_on("80-real", 7, 5));
  EXPECT_FALSE(cuda::runs_on("", 9, 0));
}

TEST(Gpus, WhatIsWrongIsNamed) {
  cuda::Runtime r;
  cuda::diagnose(r);
  EXPECT_EQ(r.problem_id, "DEV-05");  // built without

  r.built = true;
  r.toolkit = 13000;
  r.architectures = "90a";
  cuda::diagnose(r);
  EXPECT_EQ(r.problem_id, "DEV-02");  // no driver

  r.driver = 12080;
  cuda::diagnose(r);
  EXPECT_EQ(r.problem_id, "DEV-03");
  EXPECT_NE(r.problem.find("found a driver for CUDA 12.8, the program is built with 13.0"),
            std::string::npos);

  r.driver = 13020;
  cuda::diagnose(r);
  EXPECT_EQ(r.problem_id, "DEV-02");  // no GPU
  r.refusal = "cudaErrorSystemNotReady, system not yet initialized";
  cuda::diagnose(r);
  EXPECT_NE(r.problem.find("no GPU (cudaErrorSystemNotReady, system not yet initialized); look at"),
            std::string::npos)
      << r.problem;

  cuda::Gpu old;
  old.name = "Old";
  old.major = 7;
  old.minor = 5;
  r.gpus = {old};
  cuda::diagnose(r);
  EXPECT_EQ(r.problem_id, "DEV-04");
  EXPECT_NE(r.problem.find("GPU 0 (Old) has compute capability 7.5, kernels are built for 90a; build with "
                           "-DCMAKE_CUDA_ARCHITECTURES=75"),
            std::string::npos)
      << r.problem;

  cuda::Runtime usable = r;
  usable.problem.clear();
  usable.problem_id.clear();
  cuda::Gpu hopper = old;
  hopper.index = 1;
  hopper.major = 9;
  hopper.minor = 0;
  usable.gpus.push_back(hopper);
  cuda::diagnose(usable);
  EXPECT_EQ(usable.problem, "");
  EXPECT_NE(usable.gpus[0].problem, "");
  EXPECT_EQ(usable.gpus[1].problem, "");
}

TEST(Gpus, OneThatIsThereAndNotForThisBuild) {
  EXPECT_TRUE(cuda::translated("80;90a", 12, 0));
  EXPECT_FALSE(cuda::translated("80;90a", 9, 0));
  EXPECT_FALSE(cuda::translated("80-real", 12, 0));
  cuda::Runtime r;
  r.built = true;
  r.toolkit = 13020;
  r.driver = 13000;
  r.architectures = "80";
  cuda::Gpu gpu;
  gpu.name = "New";
  gpu.major = 12;
  r.gpus = {gpu};
  cuda::diagnose(r);
  EXPECT_EQ(r.problem_id, "DEV-04");
  EXPECT_NE(r.problem.find("translate kernels of CUDA 13.2, and it is for 13.0; update it"),
            std::string::npos)
      << r.problem;
  // Machine code needs no newer driver of the same major version.
  r.gpus[0].major = 8;
  cuda::diagnose(r);
  EXPECT_EQ(r.problem, "");
  r.gpus[0].mode = cuda::ComputeMode::kProhibited;
  cuda::diagnose(r);
  EXPECT_NE(r.problem.find("nvidia-smi -i 0 -c DEFAULT"), std::string::npos) << r.problem;
}

TEST(Gpus, WhatIsFoundWhenOneIsTried) {
  cuda::Gpu gpu;
  gpu.index = 3;
  gpu.name = "NVIDIA H200";
  gpu.total_bytes = size_t{140} << 30;
  auto expect = [&](const cuda::Trial& trial, bool usable, std::initializer_list<const char*> parts) {
    std::string text;
    bool fatal = false;
    for (const cuda::Finding& f : cuda::findings(gpu, trial)) {
      text += f.text + "\n";
      fatal = fatal || f.fatal;
    }
    EXPECT_EQ(fatal, !usable) << text;
    EXPECT_EQ(text.empty(), parts.size() == 0) << text;
    for (const char* part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
  };
  const size_t free = size_t{139} << 30;
  expect({free, false, ""}, true, {});
  expect({size_t{200} << 20, false, ""}, false, {"found 0.1 GiB of 140.0 GiB free", "1.0 GiB", "nvidia-smi"});
  expect({0, true, "cudaErrorMemoryAllocation, out of memory"}, false, {"0.0 GiB", "CUDA_VISIBLE_DEVICES"});
  expect({0, false, "cudaErrorECCUncorrectable, x"}, false, {"cudaErrorECCUncorrectable", "Xid"});
  gpu.mode = cuda::ComputeMode::kExclusive;
  expect({free, false, ""}, true, {"one process at a time"});
  expect({0, false, "cudaErrorDevicesUnavailable, busy"}, false,
         {"Exclusive_Process", "cudaErrorDevicesUnavailable", "nvidia-smi -i 3 -c DEFAULT"});
  gpu.mode = cuda::ComputeMode::kDefault;
  gpu.name = "NVIDIA H200 MIG 1g.18gb";
  expect({free, false, ""}, true, {"MIG slice", "nvidia-smi -mig 0"});
}

TEST(Gpus, WithoutOneTheErrorSaysWhy) {
  const cuda::Runtime found = cuda::inspect();
  if (found.problem.empty()) GTEST_SKIP() << "this machine has a GPU";
  try {
    cuda::make_device({});
    FAIL() << "a device was made: " << found.problem;
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kUnavailable);
    EXPECT_EQ(e.id(), found.problem_id);
    EXPECT_EQ(e.what(), "device: cuda: " + found.problem);
  }
}

}  // namespace
}  // namespace rookery
