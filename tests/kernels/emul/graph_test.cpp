// graph_test.cpp: what the emulated GPU notes of a piece of work, what runs when it is repeated, and what a
// graph cannot have. Of a whole training step: tests/trainer/device_training_test.cpp.
#include <array>

#include "kernels/ops/matmul/product.h"
#include "tests/kernels/emul/support.h"

namespace rookery {
namespace {

using namespace test;
using Values = std::vector<double>;

class EmulatedGraph : public testing::Test {
 protected:
  Tensor tensor(const Values& values, const Shape& shape, DType dtype = DType::kF32) {
    return tensor_from(std::span<const double>(values), shape, dtype, device_);
  }
  // The message of what is refused in a capture.
  std::string refusal(const std::function<void()>& work) {
    try {
      device_.capture(work);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kInternal);
      return e.what();
    }
    return "no refusal";
  }

  Device device_{DeviceType::kEmul, 1};
};

void scale(float* x, float by) { x[threadIdx.x] *= by; }

TEST_F(EmulatedGraph, HasTheNumbersOfItsCapture) {
  const Tensor x = tensor({1, 2, 3, 4}, {4});
  float by = 2;
  const auto launch = [&] { rk::launch(device_, scale, {1, 4}, x.data<float>(), by); };
  const auto graph = device_.capture(launch);
  EXPECT_EQ(to_doubles(x), (Values{1, 2, 3, 4}));  // noted, not run
  by = 10;                                         // of which the graph hears nothing
  graph->run();
  EXPECT_EQ(to_doubles(x), (Values{2, 4, 6, 8}));
  upload(std::array<float, 4>{1, 1, 1, 5}.data(), x);  // memory is read as it is
  graph->run();
  EXPECT_EQ(to_doubles(x), (Values{2, 2, 2, 10}));
  launch();
  EXPECT_EQ(to_doubles(x), (Values{20, 20, 20, 100}));
}

TEST_F(EmulatedGraph, RepeatsAllThatADeviceDoes) {
  const Tensor in = tensor({1, 2, 3, 4}, {2, 2}), copied = tensor(Values(4, 0), {2, 2}),
               half = tensor(Values(4, 0), {2, 2}, DType::kBF16), columns = tensor(Values(4, 0), {2, 2}),
               sum = tensor(Values(4, 0), {2, 2}), zeroed = tensor(Values(4, 9), {2, 2}),
               square = tensor(Values(4, 0), {2, 2}),
               half_square = tensor(Values(4, 0), {2, 2}, DType::kBF16),
               wide_square = tensor(Values(4, 0), {2, 2});
  const auto step = [&] {
    device_.arena().begin_step("step");
    copy(in, copied);
    copy(in, half);
    copy_columns(in, 0, 1, columns, 1);
    copy(sum_of(in, in), sum);
    add_to(half, sum);
    fill_zero(zeroed);
    product(2, 2, 2, {in, 2}, {in, 2}, false, {square, 2});
    product(2, 2, 2, {half, 2}, {half, 2}, true, {half_square, 2});
    product(2, 2, 2, {half, 2}, {half, 2}, false, {wide_square, 2});
    device_.arena().end_step();
  };
  const std::vector<Tensor> outputs{copied, half, columns, sum, zeroed, square, wide_square};
  const auto results = [&] {
    std::vector<Values> all;
    for (const Tensor& t : outputs) all.push_back(to_doubles(t));
    return all;
  };
  for (int i = 0; i < 2; ++i) step();
  fill_zero(half_square);
  const std::vector<Values> before = results();
  EXPECT_EQ(before[3], (Values{3, 6, 9, 12}));
  EXPECT_EQ(before[5], (Values{7, 10, 15, 22}));
  const auto graph = device_.capture(step);
  upload(std::array<float, 4>{2, 4, 6, 8}.data(), in);
  fill_zero(columns);
  copy(in, zeroed);
  graph->run();
  graph->run();
  EXPECT_EQ(results(), (std::vector<Values>{{2, 4, 6, 8},
                                            {2, 4, 6, 8},
                                            {0, 2, 0, 6},
                                            {6, 12, 18, 24},
                                            {0, 0, 0, 0},
                                            {28, 40, 60, 88},
                                            {28, 40, 60, 88}}));
  EXPECT_EQ(to_doubles(half_square), (Values{56, 80, 120, 176}));  // added to twice
}

TEST_F(EmulatedGraph, RefusesTheHost) {
  const Tensor x = tensor({1, 2}, {2});
  Device cpu(DeviceType::kCpu, 1);
  const Tensor on_host = empty({2}, DType::kF32, cpu);
  std::array<float, 2> values{};
  EXPECT_FAULT(refusal([&] { upload(values.data(), x); }), "the host's memory may be another");
  EXPECT_FAULT(refusal([&] { copy(on_host, x); }), "the host's memory may be another");
  EXPECT_FAULT(refusal([&] { download(x, values.data()); }), "a graph cannot wait for the host");
  EXPECT_FAULT(refusal([&] { copy(x, on_host); }), "a graph cannot wait for the host");
  EXPECT_FAULT(refusal([&] { to_doubles(x); }), "a graph cannot wait for the host");
  EXPECT_FAULT(refusal([&] { Readback{x}; }), "a graph cannot wait for the host");
  EXPECT_FAULT(refusal([&] { tensor({1, 2}, {2}); }), "no plan of the arena foresaw");
  const auto step = [&] {
    device_.arena().begin_step("step");
    { const Tensor t = tensor({3, 4}, {2}); }
    device_.arena().end_step();
  };
  for (int i = 0; i < 2; ++i) step();
  EXPECT_FAULT(refusal(step), "values of the host may be others");
}

TEST_F(EmulatedGraph, RefusesMemoryThatWasNotPlanned) {
  int64_t n = 16;
  const auto step = [&] {
    device_.arena().begin_step("step");
    { const Tensor t = zeros({n}, DType::kF32, device_); }
    device_.arena().end_step();
  };
  EXPECT_FAULT(refusal([&] { empty({2}, DType::kF32, device_); }), "no plan of the arena foresaw");
  for (int i = 0; i < 2; ++i) step();
  device_.capture(step)->run();
  n = 32;
  EXPECT_FAULT(refusal(step), "128 bytes are asked for that no plan of the arena foresaw");
}

TEST_F(EmulatedGraph, EndsWithItsCapture) {
  EXPECT_FAULT(refusal([&] { device_.capture([] {}); }), "inside another");
  EXPECT_FAULT(refusal([&] { RK_CHECK(false, "something else"); }), "something else");
  const Tensor x = tensor({1, 2}, {2});
  fill_zero(x);
  EXPECT_EQ(to_doubles(x), (Values{0, 0}));
}

}  // namespace
}  // namespace rookery
