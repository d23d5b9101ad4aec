// collective_ops_test.cpp: collectives on the tape against their formulas, and their gradients against
// differences, over ranks that are threads.
#include "parallel/collective_ops/collective_ops.h"

#include <gtest/gtest.h>

#include <functional>

#include "parallel/comm/meta.h"
#include "parallel/comm/threads.h"
#include "parallel/mesh/mesh.h"
#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

using Op = std::function<Var(const Var&, Communicator&)>;
using OfRanks = std::vector<Values>;
// What every rank's result is, by every rank's input of `rows` rows.
using Formula = std::function<OfRanks(const OfRanks& x, int64_t rows)>;

OfRanks run(const Op& op, const OfRanks& x, const Shape& shape) {
  OfRanks y(x.size());
  run_ranks(static_cast<int>(x.size()), [&](Communicator& ranks) {
    Device device(DeviceType::kCpu, 1);
    const auto rank = static_cast<size_t>(ranks.rank());
    y[rank] = to_doubles(
        op(Var(tensor_from(std::span<const double>(x[rank]), shape, DType::kF64, device)), ranks).value());
  });
  return y;
}

// The gradients of sum_r <w_r, y_r>: on each rank it starts with the rank's own w, a part of a sum.
OfRanks gradients(const Op& op, const OfRanks& x, const Shape& shape, const OfRanks& w) {
  OfRanks dx(x.size());
  run_ranks(static_cast<int>(x.size()), [&](Communicator& ranks) {
    Device device(DeviceType::kCpu, 1);
    const auto rank = static_cast<size_t>(ranks.rank());
    Tape tape;
    const Var vx = tape.watch(tensor_from(std::span<const double>(x[rank]), shape, DType::kF64, device));
    const Var y = op(vx, ranks);
    const Tensor seed = tensor_from(std::span<const double>(w[rank]), y.shape(), DType::kF64, device);
    tape.backward(y, &seed);
    dx[rank] = to_doubles(tape.grad(vx));
  });
  return dx;
}

void check(const Op& op, const Formula& formula, size_t ranks, const Shape& shape) {
  SCOPED_TRACE(str(ranks, " ranks, ", shape));
  const int64_t rows = shape.numel() / shape.back();
  OfRanks x, w;
  for (size_t r = 0; r < ranks; ++r) x.push_back(random_values(str("x", r), shape.numel(), {-1, 1}));
  const OfRanks y = formula(x, rows);
  const OfRanks found = run(op, x, shape);
  for (size_t r = 0; r < ranks; ++r) {
    EXPECT_LE(nmse(found[r], y[r]), 1e-30) << "rank " << r;
    w.push_back(random_values(str("w", r), static_cast<int64_t>(y[r].size()), {-1, 1}));
  }
  EXPECT_EQ(run(op, x, shape), found) << "the same call, other bits";

  const OfRanks dx = gradients(op, x, shape, w);
  auto objective = [&] {
    double sum = 0;
    const OfRanks z = formula(x, rows);
    for (size_t r = 0; r < ranks; ++r)
      for (size_t i = 0; i < w[r].size(); ++i) sum += w[r][i] * z[r][i];
    return sum;
  };
  for (size_t r = 0; r < ranks; ++r)
    for (size_t i = 0; i < x[r].size(); ++i) {
      const double before = x[r][i];
      x[r][i] = before + 0.5;
      const double above = objective();
      x[r][i] = before - 0.5;
      const double below = objective();
      x[r][i] = before;
      EXPECT_NEAR(dx[r][i], above - below, 1e-12) << "rank " << r << ", element " << i;
    }
}

OfRanks sums(const OfRanks& x, int64_t) {
  Values sum(x[0].size(), 0.0);
  for (const Values& of_rank : x)
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += of_rank[i];
  return OfRanks(x.size(), sum);
}

OfRanks gathered(const OfRanks& x, int64_t rows) {
  const int64_t n = static_cast<int64_t>(x[0].size()) / rows;
  Values all;
  for (int64_t row = 0; row < rows; ++row)
    for (const Values& of_rank : x)
      all.insert(all.end(), of_rank.begin() + row * n, of_rank.begin() + (row + 1) * n);
  return OfRanks(x.size(), all);
}

OfRanks sliced(const OfRanks& x, int64_t rows) {
  const int64_t width = static_cast<int64_t>(x[0].size()) / rows, n = width / static_cast<int64_t>(x.size());
  OfRanks y(x.size());
  for (size_t r = 0; r < x.size(); ++r)
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < n; ++i)
        y[r].push_back(x[r][static_cast<size_t>(row * width + static_cast<int64_t>(r) * n + i)]);
  return y;
}

TEST(CollectiveOps, SumOver) {
  for (const size_t ranks : {2, 3, 4})
    for (const Shape& shape : {Shape{1}, Shape{2, 3, 5}}) check(sum_over, sums, ranks, shape);
}
TEST(CollectiveOps, GatherLast) {
  for (const size_t ranks : {2, 3})
    for (const Shape& shape : {Shape{4}, Shape{2, 3, 5}, Shape{7, 1}})
      check(gather_last, gathered, ranks, shape);
}
TEST(CollectiveOps, SliceLast) {
  for (const size_t ranks : {2, 3})
    for (const Shape& shape : {Shape{6}, Shape{2, 3, 12}}) check(slice_last, sliced, ranks, shape);
}

// No node, no copy.
TEST(CollectiveOps, OnOneRankNothingHappens) {
  const auto self = self_communicator();
  Device device(DeviceType::kCpu, 1);
  Tape tape;
  const Var x = tape.watch(zeros({2, 3}, DType::kF32, device));
  for (const auto op : {sum_over, gather_last, slice_last})
    EXPECT_EQ(op(x, *self).value().raw(), x.value().raw());
}

// A selective recompute keeps what the others sent: its second run calls no collective. The two in backward
// are those of the gradients.
TEST(CollectiveOps, SelectiveRecomputeKeepsTheirValues) {
  for (const auto& [keep, calls] : {std::pair{Keep::kDear, 4}, {Keep::kNothing, 6}})
    run_ranks(2, [&, keep = keep, calls = calls](Communicator& ranks) {
      Device device(DeviceType::kCpu, 1);
      Tape tape;
      const Var x = tape.watch(zeros({2, 3}, DType::kF64, device));
      const auto out = recomputed(
          &tape, [&] { return std::vector{sum_over(sum_over(x, ranks), ranks)}; }, keep);
      const Tensor seed = zeros({2, 3}, DType::kF64, device);
      tape.backward(out[0], &seed);
      EXPECT_EQ(ranks.count(Collective::kAllReduce).calls, calls);
    });
}

// On the meta device a rank that is only thought of counts what a real one counts.
TEST(CollectiveOps, MetaRanksCountAsRealOnes) {
  const auto use = [](Communicator& ranks, DeviceType type) {
    Device device(type, 1);
    Tape tape;
    const Var x = tape.watch(zeros({7, 33, 12}, DType::kF32, device));
    const Var y = slice_last(gather_last(sum_over(x, ranks), ranks), ranks);
    const Tensor seed = zeros(y.shape(), DType::kF32, device);
    tape.backward(y, &seed);
    const Tensor rows = zeros({6, 5}, DType::kF32, device), others = zeros({6, 5}, DType::kF32, device);
    ranks.all_to_all(rows, others, {});
    ranks.broadcast(rows, 1);
    ranks.send(rows, (ranks.rank() + 1) % ranks.size());
    ranks.recv(rows, (ranks.rank() + ranks.size() - 1) % ranks.size());
    ranks.barrier();
  };
  run_ranks(3, [&](Communicator& real) {
    MetaCommunicator meta(real.rank(), real.size());
    use(real, DeviceType::kCpu);
    use(meta, DeviceType::kMeta);
    for (int i = 0; i < kNumCollectives; ++i) {
      const auto kind = static_cast<Collective>(i);
      EXPECT_EQ(meta.count(kind).calls, real.count(kind).calls) << name_of(kind);
      EXPECT_EQ(meta.count(kind).bytes, real.count(kind).bytes) << name_of(kind);
    }
  });
}

TEST(CollectiveOps, AMeshOfMetaRanksHasTheSameGroups) {
  const MeshDegrees degrees{.pipe = 1, .data = 2, .seq = 1, .tensor = 2, .expert = 2};
  run_ranks(4, [&](Communicator& world) {
    MetaCommunicator thought(world.rank(), world.size());
    const Mesh real(degrees, world), meta(degrees, thought);
    for (const Axis axis : {Axis::kPipe, Axis::kData, Axis::kSeq, Axis::kTensor, Axis::kExpert}) {
      EXPECT_EQ(meta.axis(axis).rank(), real.axis(axis).rank()) << to_string(axis);
      EXPECT_EQ(meta.axis(axis).size(), real.axis(axis).size()) << to_string(axis);
    }
    EXPECT_EQ(meta.replicas().rank(), real.replicas().rank());
    EXPECT_EQ(meta.replicas().size(), real.replicas().size());
  });
}

}  // namespace
}  // namespace rookery::test
