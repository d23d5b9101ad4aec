// comm_cases.cpp: every collective on 1 to 5 ranks against plain loops. Linked once with threads (comm_test)
// and once with processes of MPI (comm_mpi_test), by tests/support/ranks.h.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/ranks.h"

namespace rookery {
namespace {

using test::on_ranks;

// Element i of rank r's tensor: sums of these depend on their order.
double element(int rank, int64_t i) {
  return std::sin(1.0 + 37.0 * rank + 0.7 * static_cast<double>(i)) * (rank + 1);
}

template <class T>
Tensor filled(int rank, int64_t n, Device& device, const Shape& shape) {
  std::vector<double> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(1e3 * element(rank, i));
  return tensor_from(std::span<const double>(values), shape, DTypeOf<T>::value, device);
}

template <class T>
T reduced(int ranks, int64_t i, Reduce op) {
  T sum = static_cast<T>(1e3 * element(0, i));
  for (int r = 1; r < ranks; ++r) {
    const T x = static_cast<T>(1e3 * element(r, i));
    sum = op == Reduce::kSum ? sum + x : op == Reduce::kMax ? std::max(sum, x) : std::min(sum, x);
  }
  return sum;
}

template <class T>
void check_reductions() {
  for (const int ranks : {1, 2, 3, 5})
    for (const int64_t n : {1, 3, 65, 2000, 600'001})  // short; long; several rounds of chunks
      for (const Reduce op : {Reduce::kSum, Reduce::kMax, Reduce::kMin}) {
        if (n > 2000 && (op != Reduce::kSum || ranks > 3)) continue;
        on_ranks(ranks, [&](Communicator& comm, Device& device) {
          const Tensor data = filled<T>(comm.rank(), n, device, {n});
          comm.all_reduce(data, op);
          for (int64_t i = 0; i < n; ++i)
            ASSERT_EQ(data.data<T>()[i], reduced<T>(ranks, i, op)) << "all_reduce " << to_string(op);

          const Tensor whole = filled<T>(comm.rank(), n * ranks, device, {ranks, n});
          const Tensor slice = empty({n}, DTypeOf<T>::value, device);
          comm.reduce_scatter(whole, slice, op);
          for (int64_t i = 0; i < n; ++i)
            ASSERT_EQ(slice.data<T>()[i], reduced<T>(ranks, comm.rank() * n + i, op))
                << "reduce_scatter " << to_string(op);
        });
      }
}

TEST(Comm, ReductionsF32) { check_reductions<float>(); }
TEST(Comm, ReductionsF64) { check_reductions<double>(); }
TEST(Comm, ReductionsI64) { check_reductions<int64_t>(); }
TEST(Comm, ReductionsI32) { check_reductions<int32_t>(); }

TEST(Comm, ReductionsKeepNotANumber) {
  for (const int bad : {0, 1, 2})
    on_ranks(3, [&](Communicator& comm, Device& device) {
      for (const Reduce op : {Reduce::kSum, Reduce::kMax, Reduce::kMin}) {
        const float value = comm.rank() == bad ? NAN : 1.f;
        const Tensor data = tensor_from(std::span<const float>(&value, 1), {1}, DType::kF32, device);
        comm.all_reduce(data, op);
        EXPECT_TRUE(std::isnan(data.data<float>()[0])) << to_string(op) << ", NaN on rank " << bad;
      }
    });
}

TEST(Comm, GatherAndBroadcast) {
  for (const int ranks : {1, 2, 5})
    for (const int64_t n : {1, 65})
      on_ranks(ranks, [&](Communicator& comm, Device& device) {
        const Tensor all = empty({ranks, n}, DType::kF32, device);
        comm.all_gather(filled<float>(comm.rank(), n, device, {n}), all);
        for (int64_t i = 0; i < ranks * n; ++i)
          ASSERT_EQ(all.data<float>()[i], float(1e3 * element(static_cast<int>(i / n), i % n)));
        // In place: a rank's slice lies where it belongs already.
        const Tensor mine = all.narrow(comm.rank(), 1);
        for (int64_t i = 0; i < n; ++i) mine.data<float>()[i] += 1;
        comm.all_gather(mine, all);
        for (int64_t i = 0; i < ranks * n; ++i)
          ASSERT_EQ(all.data<float>()[i], float(1e3 * element(static_cast<int>(i / n), i % n)) + 1);
        for (int root = 0; root < ranks; ++root) {
          const Tensor data = filled<float>(comm.rank(), n, device, {n});
          comm.broadcast(data, root);
          for (int64_t i = 0; i < n; ++i) ASSERT_EQ(data.data<float>()[i], float(1e3 * element(root, i)));
        }
      });
}

// Rank r sends r + 2 s + 1 rows to rank s: row values tell sender, receiver and number.
TEST(Comm, AllToAllOfUnequalParts) {
  auto count = [](int from, int to) { return int64_t{from} + 2 * to; };  // 0 from rank 0 to itself
  auto value = [](int from, int to, int64_t row) { return int32_t(1000 * from + 100 * to + row); };
  for (const int ranks : {1, 2, 4})
    on_ranks(ranks, [&](Communicator& comm, Device& device) {
      RowCounts rows;
      std::vector<int32_t> sent, expected;
      for (int r = 0; r < ranks; ++r) {
        rows.send.push_back(count(comm.rank(), r));
        rows.recv.push_back(count(r, comm.rank()));
        for (int64_t i = 0; i < rows.send.back(); ++i) sent.insert(sent.end(), 3, value(comm.rank(), r, i));
        for (int64_t i = 0; i < rows.recv.back(); ++i)
          expected.insert(expected.end(), 3, value(r, comm.rank(), i));
      }
      const int64_t n_in = static_cast<int64_t>(sent.size()) / 3,
                    n_out = static_cast<int64_t>(expected.size()) / 3;
      const Tensor in = tensor_from(std::span<const int32_t>(sent), {n_in, 3}, DType::kI32, device);
      const Tensor out = empty({n_out, 3}, DType::kI32, device);
      comm.all_to_all(in, out, rows);
      EXPECT_EQ(std::vector<int32_t>(out.data<int32_t>(), out.data<int32_t>() + out.numel()), expected);
    });
}

TEST(Comm, AllToAllOfEqualParts) {
  on_ranks(3, [&](Communicator& comm, Device& device) {
    const Tensor in = filled<double>(comm.rank(), 6, device, {6}), out = empty({6}, DType::kF64, device);
    comm.all_to_all(in, out, {});
    for (int r = 0; r < 3; ++r)
      for (int64_t i = 0; i < 2; ++i)
        EXPECT_EQ(out.data<double>()[r * 2 + i], 1e3 * element(r, comm.rank() * 2 + i));
  });
}

// Everybody sends before anybody receives: sends do not wait. Messages of one pair keep their order.
TEST(Comm, SendAndReceiveAroundARing) {
  for (const int ranks : {1, 2, 5})
    on_ranks(ranks, [&](Communicator& comm, Device& device) {
      const int next = (comm.rank() + 1) % ranks, before = (comm.rank() + ranks - 1) % ranks;
      for (const int64_t n : {1, 65}) comm.send(filled<float>(comm.rank(), n, device, {n}), next);
      for (const int64_t n : {1, 65}) {
        const Tensor data = empty({n}, DType::kF32, device);
        comm.recv(data, before);
        for (int64_t i = 0; i < n; ++i) ASSERT_EQ(data.data<float>()[i], float(1e3 * element(before, i)));
      }
    });
}

TEST(Comm, SplitByColourAndKey) {
  on_ranks(5, [&](Communicator& comm, Device& device) {
    // Colours 0: ranks 0, 2, 4; 1: rank 1; rank 3 stays out. Keys reverse the order.
    const int colour = comm.rank() == 3 ? -1 : comm.rank() % 2;
    const auto part = comm.split(colour, -comm.rank());
    if (comm.rank() == 3) {
      EXPECT_EQ(part, nullptr);
    } else {
      EXPECT_EQ(part->size(), colour == 0 ? 3 : 1);
      EXPECT_EQ(part->rank(), colour == 0 ? (4 - comm.rank()) / 2 : 0);
      const Tensor data = zeros({1}, DType::kI64, device);
      data.data<int64_t>()[0] = comm.rank();
      part->all_reduce(data, Reduce::kSum);
      EXPECT_EQ(data.data<int64_t>()[0], colour == 0 ? 6 : 1);
      data.data<int64_t>()[0] = comm.rank();
      part->broadcast(data, 0);
      EXPECT_EQ(data.data<int64_t>()[0], colour == 0 ? 4 : 1);
    }
    comm.barrier();
  });
  EXPECT_EQ(self_communicator()->split(-1, 0), nullptr);
  EXPECT_EQ(self_communicator()->split(7, 0)->size(), 1);
}

// By hand for 3 ranks: parts of 1000 floats are 333, 333 and 334.
TEST(Comm, BytesAreCounted) {
  on_ranks(3, [&](Communicator& comm, Device& device) {
    auto count = [&](Collective kind) { return std::pair(comm.count(kind).calls, comm.count(kind).bytes); };
    using Pair = std::pair<int64_t, int64_t>;
    const int r = comm.rank();
    const int64_t part = r == 2 ? 334 : 333;
    const Tensor data = zeros({1000}, DType::kF32, device), one = zeros({1}, DType::kF64, device),
                 three = zeros({3, 1000}, DType::kF32, device);
    const auto before = count(Collective::kAllReduce);
    EXPECT_EQ(before, Pair(0, 0));
    comm.all_reduce(data, Reduce::kSum);
    EXPECT_EQ(count(Collective::kAllReduce), Pair(1, 4 * (1000 - part) + 4 * part * 2));
    comm.all_reduce(one, Reduce::kSum);
    EXPECT_EQ(count(Collective::kAllReduce), Pair(2, 4 * (1000 - part) + 4 * part * 2 + 2 * 8));
    comm.reduce_scatter(three, data, Reduce::kSum);
    EXPECT_EQ(count(Collective::kReduceScatter), Pair(1, 8000));
    comm.all_gather(data, three);
    EXPECT_EQ(count(Collective::kAllGather), Pair(1, 8000));
    comm.broadcast(data, 1);
    EXPECT_EQ(count(Collective::kBroadcast), Pair(1, (r == 1 ? 4 * 667 : 0) + 8 * part));
    comm.broadcast(one, 1);
    EXPECT_EQ(count(Collective::kBroadcast), Pair(2, (r == 1 ? 4 * 667 + 16 : 0) + 8 * part));
    comm.all_to_all(three, zeros({3, 1000}, DType::kF32, device), {});
    EXPECT_EQ(count(Collective::kAllToAll), Pair(1, 8000));
    comm.send(data, (r + 1) % 3);
    comm.recv(data, (r + 2) % 3);
    EXPECT_EQ(count(Collective::kSend), Pair(1, 4000));
    EXPECT_EQ(count(Collective::kRecv), Pair(1, 0));
    comm.barrier();
    EXPECT_EQ(count(Collective::kBarrier), Pair(1, 0));
    EXPECT_EQ(comm.split(0, 0)->count(Collective::kBarrier).calls, 0);
    EXPECT_EQ(count(Collective::kSplit), Pair(1, 0));
  });
}

// More than one message of MPI in flight, and collectives of two communicators in turns.
TEST(Comm, CommunicatorsDoNotMeet) {
  on_ranks(4, [&](Communicator& comm, Device& device) {
    const auto pair = comm.split(comm.rank() / 2, comm.rank()), odd = comm.split(comm.rank() % 2, 0);
    const Tensor a = zeros({5000}, DType::kF64, device), b = zeros({5000}, DType::kF64, device);
    for (int round = 0; round < 5; ++round) {
      for (int64_t i = 0; i < 5000; ++i) a.data<double>()[i] = b.data<double>()[i] = comm.rank() + 1;
      pair->send(a, 1 - pair->rank());
      odd->send(b, 1 - odd->rank());
      pair->all_reduce(a, Reduce::kSum);
      odd->all_reduce(b, Reduce::kSum);
      EXPECT_EQ(a.data<double>()[4999], comm.rank() < 2 ? 3 : 7);
      EXPECT_EQ(b.data<double>()[0], comm.rank() % 2 ? 6 : 4);
      odd->recv(b, 1 - odd->rank());
      pair->recv(a, 1 - pair->rank());
      EXPECT_EQ(a.data<double>()[17], (comm.rank() ^ 1) + 1);
      EXPECT_EQ(b.data<double>()[17], (comm.rank() ^ 2) + 1);
    }
  });
}

}  // namespace
}  // namespace rookery
