// tensor_test.cpp: bf16 numbers, copies between types, owners of memory, work that is captured.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/ops/matmul/product.h"
#include "kernels/tensor/tensor.h"

namespace rookery {
namespace {

using Values = std::vector<double>;

Tensor tensor(const Values& values, DType dtype, Device& device) {
  return tensor_from(std::span<const double>(values), {static_cast<int64_t>(values.size())}, dtype, device);
}

float round_trip(float x) { return static_cast<float>(bf16(x)); }

TEST(Bf16, RoundsToNearestEven) {
  EXPECT_EQ(round_trip(1.f), 1.f);
  EXPECT_EQ(round_trip(1.f + 0x1p-8f), 1.f);            // half way: to even
  EXPECT_EQ(round_trip(1.f + 0x3p-8f), 1.f + 0x4p-8f);  // half way: to even
  EXPECT_EQ(round_trip(1.f + 0x1p-8f + 0x1p-20f), 1.f + 0x2p-8f);
  EXPECT_EQ(round_trip(-1.f - 0x1p-8f), -1.f);
  EXPECT_EQ(round_trip(0x1p-130f), 0x1p-130f);  // subnormal
  EXPECT_EQ(bf16(-0.f).bits, 0x8000);
  EXPECT_EQ(round_trip(std::numeric_limits<float>::max()), std::numeric_limits<float>::infinity());
  EXPECT_EQ(round_trip(-INFINITY), -INFINITY);
}

TEST(Bf16, NotANumberStaysOne) {
  EXPECT_TRUE(std::isnan(round_trip(NAN)));
  EXPECT_TRUE(
      std::isnan(round_trip(std::bit_cast<float>(0x7F800001u))));  // its payload lies in the lost half
  EXPECT_TRUE(std::isnan(round_trip(std::bit_cast<float>(0xFF80FFFFu))));
}

TEST(Tensors, CopyConvertsBetweenFloatTypes) {
  Device device(DeviceType::kCpu, 1);
  const Values exact = {0, -1.5, 3, 0x1p-100, 260};
  for (const DType from : {DType::kF64, DType::kF32, DType::kBF16}) {
    for (const DType to : {DType::kF64, DType::kF32, DType::kBF16}) {
      const Tensor out = empty({5}, to, device);
      copy(tensor(exact, from, device), out);
      EXPECT_EQ(to_doubles(out), exact) << str(from, " to ", to);
    }
  }
  const Tensor rounded = empty({2}, DType::kBF16, device);
  copy(tensor({1 + 0x1p-8, 1.0 / 3}, DType::kF64, device), rounded);
  EXPECT_EQ(to_doubles(rounded), (Values{1, 0.333984375}));
  EXPECT_EQ(rounded.bytes(), 4u);
}

TEST(Tensors, Bf16AddsToFloat) {
  Device device(DeviceType::kCpu, 1);
  const Tensor sum = tensor({1, 100}, DType::kF32, device);
  add_to(tensor({0x1p-12, 0.5}, DType::kBF16, device), sum);
  EXPECT_EQ(to_doubles(sum), (Values{1 + 0x1p-12, 100.5}));
  const Tensor a = tensor({1, 100}, DType::kBF16, device), b = tensor({0x1p-12, 0.5}, DType::kBF16, device);
  EXPECT_EQ(to_doubles(sum_of(a, b)), (Values{1, 100.5}));  // one rounding of the sum
  EXPECT_THROW(add_to(sum, a), Error);                      // would lose what the sum has
}

// Sums in float, and one rounding of the result: 256 ones and a 1/2 would stay 256 in bf16.
TEST(Products, OfBf16AreSummedInFloat) {
  Device device(DeviceType::kEmul, 1);
  Values row(300, 1.0);
  row[299] = 0.5;
  const Tensor a = tensor(row, DType::kBF16, device), ones = tensor(Values(300, 1.0), DType::kBF16, device);
  const Tensor wide = tensor({0.25}, DType::kF32, device), narrow = tensor({4}, DType::kBF16, device);
  product(1, 1, 300, {a, 300}, {ones, 1}, true, {wide, 1});
  product(1, 1, 300, {a, 300}, {ones, 1}, true, {narrow, 1});
  EXPECT_EQ(to_doubles(wide)[0], 299.75);
  EXPECT_EQ(to_doubles(narrow)[0], 304);  // 303.5 to the nearest even of 302 and 304
}

TEST(Arena, KnowsWhoHoldsTheMemory) {
  Device device(DeviceType::kCpu, 1);
  Arena& arena = device.arena();
  auto bytes_of = [&](std::string_view name) {
    for (const Arena::Owned& o : arena.owners())
      if (o.name == name) return std::pair(o.bytes, o.peak);
    return std::pair(size_t{0}, size_t{0});
  };
  const Tensor other = empty({16}, DType::kF32, device);
  {
    const Arena::Owner owner(arena, "parameters");
    const Tensor weights = empty({32}, DType::kF32, device);
    {
      const Arena::Owner inner(arena, "moments");
      const Tensor moments = empty({64}, DType::kF32, device);
      EXPECT_EQ(bytes_of("moments"), std::pair(size_t{256}, size_t{256}));
    }
    const Tensor more = empty({32}, DType::kF32, device);
    EXPECT_EQ(bytes_of("parameters"), std::pair(size_t{256}, size_t{256}));
  }
  EXPECT_EQ(bytes_of("other"), std::pair(size_t{64}, size_t{64}));
  EXPECT_EQ(bytes_of("parameters"), std::pair(size_t{0}, size_t{256}));
  for (int step = 0; step < 2; ++step) {
    arena.begin_step("step");
    { const Tensor activations = empty({128}, DType::kF32, device); }
    arena.end_step();
  }
  EXPECT_EQ(bytes_of("step"), std::pair(size_t{512}, size_t{512}));  // the slab stays
}

TEST(Device, CapturedWorkRunsAgain) {
  Device device(DeviceType::kCpu, 1);
  const Tensor one = tensor({1}, DType::kF32, device), sum = tensor({0}, DType::kF32, device);
  const auto step = device.capture([&] { add_to(one, sum); });
  EXPECT_EQ(to_doubles(sum)[0], 0);
  step->run();
  step->run();
  EXPECT_EQ(to_doubles(sum)[0], 2);
}

}  // namespace
}  // namespace rookery
