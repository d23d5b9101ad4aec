// gpu_test.cpp: tensors, graphs, clocks and matrix products on a real GPU; without one each test skips
// itself. Kernels are compared with the CPU's by OpCase, on the same device.
#include <gtest/gtest.h>

#include <filesystem>

#include "kernels/cuda/device.h"
#include "kernels/ops/matmul/product.h"
#include "tests/support/process.h"

namespace rookery {
namespace {

using Values = std::vector<double>;

class RealGpu : public testing::Test {
 protected:
  void SetUp() override {
    const cuda::Runtime runtime = cuda::inspect();
    if (!runtime.problem.empty()) GTEST_SKIP() << runtime.problem;
    device_ = cuda::make_device({});
  }
  Tensor tensor(const Values& values, DType dtype = DType::kF32) {
    return tensor_from(std::span<const double>(values), {static_cast<int64_t>(values.size())}, dtype,
                       *device_);
  }
  std::unique_ptr<Device> device_;
};

TEST_F(RealGpu, TensorsGoThereAndBack) {
  const Values exact = {0, -1.5, 3, 260};
  for (const DType there : {DType::kF32, DType::kBF16}) {
    const Tensor t = tensor(exact, there);
    EXPECT_EQ(to_doubles(t), exact);
    EXPECT_EQ(Readback(t).values(), exact);
    EXPECT_EQ(to_doubles(sum_of(t, t)), (Values{0, -3, 6, 520}));
    const Tensor other = empty({4}, there == DType::kF32 ? DType::kBF16 : DType::kF32, *device_);
    copy(t, other);
    EXPECT_EQ(to_doubles(other), exact);
  }
}

TEST_F(RealGpu, AGraphRepeatsAStep) {
  const Tensor x = tensor({1, 2, 3}), y = zeros({3}, DType::kF32, *device_);
  auto step = [&] {
    device_->arena().begin_step("doubled");
    copy(sum_of(x, x), y);
    device_->arena().end_step();
  };
  step();
  step();  // the plan is replayed: its addresses stay
  const auto graph = device_->capture(step);
  upload(std::vector<float>{10, 20, 30}.data(), x);
  graph->run();
  EXPECT_EQ(to_doubles(y), (Values{20, 40, 60}));
}

TEST_F(RealGpu, ItsClockRunsWithItsWork) {
  const Tensor large = empty({int64_t{1} << 30}, DType::kU8, *device_);
  const TimePoint begin(*device_);
  fill_zero(large);
  const TimePoint end(*device_);
  // 1 GiB at less than 100 TB/s, in less than ten seconds.
  EXPECT_GT(end.seconds_since(begin), 1e-5);
  EXPECT_LT(end.seconds_since(begin), 10);
}

TEST_F(RealGpu, ProductsThatWereMeasuredAreKept) {
  const test::TempDir folder;
  constexpr int64_t n = 512;
  const Values numbers = [] {
    Values v;
    for (int i = 0; i < n * n; ++i) v.push_back(i % 7 - 3);
    return v;
  }();
  std::vector<Values> results;
  for (int process = 0; process < 2; ++process) {
    cuda::DeviceOptions options;
    options.cache = folder.path();
    device_ = cuda::make_device(options);
    {
      const Tensor a = tensor(numbers, DType::kBF16).reshape({n, n}),
                   c = empty({n, n}, DType::kF32, *device_);
      product(n, n, n, {a, n}, {a, n, true}, false, {c, n});
      results.push_back(to_doubles(c));
    }
    device_.reset();
    EXPECT_FALSE(std::filesystem::is_empty(folder.path()));
  }
  EXPECT_EQ(results[0], results[1]);
  double first = 0;  // row 0 with itself
  for (int64_t i = 0; i < n; ++i) first += numbers[i] * numbers[i];
  EXPECT_EQ(results[0][0], first);
}

}  // namespace
}  // namespace rookery
