// comm_test.cpp: every collective on 1 to 5 ranks against plain loops, on both backends; what happens when a
// rank is late, calls something else, or fails.
#include "parallel/comm/communicator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>

#include "parallel/comm/threads.h"

namespace rookery {
namespace {

using std::chrono::milliseconds;

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

// Runs on n threads, and for n = 1 also on the self backend.
void on_ranks(int n, const std::function<void(Communicator&, Device&)>& body) {
  run_ranks(n, [&](Communicator& comm) {
    Device device(DeviceType::kCpu, 1);
    body(comm, device);
  });
  if (n > 1) return;
  Device device(DeviceType::kCpu, 1);
  body(*self_communicator(), device);
}

template <class T>
void check_reductions() {
  for (const int ranks : {1, 2, 3, 5})
    for (const int64_t n : {1, 3, 65, 2000})
      for (const Reduce op : {Reduce::kSum, Reduce::kMax, Reduce::kMin})
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

TEST(Comm, BarrierHoldsBackTheFast) {
  std::atomic<int> inside{0};
  on_ranks(4, [&](Communicator& comm, Device&) {
    for (int round = 1; round <= 20; ++round) {
      ++inside;
      comm.barrier();
      EXPECT_EQ(inside.load(), 4 * round);
      comm.barrier();
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

// What run_ranks() throws.
Error error_of(int ranks, milliseconds timeout, const std::function<void(Communicator&, Device&)>& body) {
  try {
    run_ranks(
        ranks,
        [&](Communicator& comm) {
          Device device(DeviceType::kCpu, 1);
          body(comm, device);
        },
        timeout);
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "no error";
  return Error(ExitCode::kOk, "", "");
}

void expect_mentions(const Error& e, const std::vector<std::string>& parts) {
  for (const std::string& part : parts)
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what() << "\nlacks: " << part;
}

TEST(CommErrors, LateRanksAreNamed) {
  const Error e = error_of(4, milliseconds(100), [](Communicator& comm, Device&) {
    if (comm.rank() % 2 == 0) return comm.barrier();
    std::this_thread::sleep_for(milliseconds(400));
    EXPECT_THROW(comm.barrier(), Error);  // the others have given up
  });
  EXPECT_EQ(e.code(), ExitCode::kHang);
  EXPECT_EQ(e.id(), "COMM-01");
  expect_mentions(e, {"barrier", "for rank 1, 3", "100 ms"});
}

TEST(CommErrors, MessageThatDoesNotCome) {
  const Error e = error_of(2, milliseconds(50), [](Communicator& comm, Device& device) {
    if (comm.rank() == 1) comm.recv(zeros({3}, DType::kF32, device), 0);
  });
  EXPECT_EQ(e.code(), ExitCode::kHang);
  expect_mentions(e, {"rank 1", "recv of 3 f32", "rank 0"});
}

TEST(CommErrors, DifferentCallsAreNamed) {
  const auto minute = milliseconds(60'000);
  Error e = error_of(3, minute, [](Communicator& comm, Device& device) {
    const Tensor data = zeros({comm.rank() == 1 ? 6 : 5}, DType::kF32, device);
    comm.all_reduce(data, Reduce::kSum);
  });
  EXPECT_EQ(e.id(), "COMM-02");
  expect_mentions(e, {"all_reduce (sum) of 6 f32", "all_reduce (sum) of 5 f32", "rank 1"});
  e = error_of(2, minute, [](Communicator& comm, Device& device) {
    const Tensor data = zeros({4}, DType::kF32, device);
    if (comm.rank() == 0) {
      comm.broadcast(data, 0);
    } else {
      comm.all_reduce(data, Reduce::kMax);
    }
  });
  EXPECT_EQ(e.id(), "COMM-02");
  expect_mentions(e, {"rank 0 calls broadcast of 4 f32 from rank 0", "rank 1 calls all_reduce (max)"});
  e = error_of(2, minute, [](Communicator& comm, Device& device) {
    if (comm.rank() == 0) comm.send(zeros({4}, DType::kF32, device), 1);
    if (comm.rank() == 1) comm.recv(zeros({4}, DType::kF64, device), 0);
  });
  EXPECT_EQ(e.id(), "COMM-02");
  expect_mentions(e, {"sends 4 f32", "receives 4 f64"});
  e = error_of(2, minute, [](Communicator& comm, Device& device) {
    const Tensor data = zeros({3}, DType::kF32, device), out = zeros({3}, DType::kF32, device);
    comm.all_to_all(data, out, {{1, 2}, {1, 2}});
  });
  EXPECT_EQ(e.id(), "COMM-02");
  expect_mentions(e, {"expects", "sends"});
}

TEST(CommErrors, AFailureWakesTheOthers) {
  std::atomic<int> woken{0};
  const auto begin = std::chrono::steady_clock::now();
  const Error e = error_of(4, milliseconds(60'000), [&](Communicator& comm, Device& device) {
    const auto pair = comm.split(comm.rank() / 2, 0);
    if (comm.rank() == 2) fail(ExitCode::kNumerics, "NUM-01", "loss is not a number");
    try {
      if (comm.rank() == 3) {
        pair->recv(zeros({1}, DType::kF32, device), 0);  // from rank 2 of the world
      } else {
        comm.barrier();
      }
    } catch (const Error& peer) {
      EXPECT_EQ(peer.code(), ExitCode::kPeerFailed);
      expect_mentions(peer, {"rank 2", "loss is not a number"});
      ++woken;
      throw;
    }
  });
  EXPECT_EQ(e.code(), ExitCode::kNumerics);
  EXPECT_EQ(woken.load(), 3);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
}

TEST(CommErrors, AbortWakesTheOthers) {
  const Error e = error_of(3, milliseconds(60'000), [&](Communicator& comm, Device&) {
    if (comm.rank() == 0) return comm.abort("asked to stop");
    comm.barrier();
  });
  EXPECT_EQ(e.code(), ExitCode::kPeerFailed);
  expect_mentions(e, {"rank 0", "asked to stop"});
}

TEST(CommErrors, SizesThatDoNotFitAreFound) {
  Device device(DeviceType::kCpu, 1);
  const auto self = self_communicator();
  const Tensor three = zeros({3}, DType::kF32, device), four = zeros({4}, DType::kF32, device);
  EXPECT_THROW(self->all_gather(three, four), Error);
  EXPECT_THROW(self->reduce_scatter(four, three, Reduce::kSum), Error);
  EXPECT_THROW(self->all_to_all(three, four, {}), Error);
  EXPECT_THROW(self->broadcast(three, 1), Error);
  EXPECT_THROW(self->recv(three, 0), Error);
  EXPECT_THROW(run_ranks(2, [&](Communicator& comm) { comm.send(three, 2); }), Error);
}

// Rank 0 finds the mistake at once and leaves, while rank 1 still copies from its tensor.
TEST(ThreadsError, ARankLeavesAfterTheOthersHaveReadItsMemory) {
  constexpr int64_t kRows = int64_t{24} << 20;
  try {
    run_ranks(2, [&](Communicator& comm) {
      Device device(DeviceType::kCpu, 1);
      const Tensor in = zeros({kRows + 1}, DType::kF32, device),
                   out = zeros({kRows + 1}, DType::kF32, device);
      const bool wrong = comm.rank() == 0;  // sends itself one row and expects none
      comm.all_to_all(in, out,
                      wrong ? RowCounts{{1, kRows}, {0, kRows + 1}} : RowCounts{{1, kRows}, {kRows, 1}});
    });
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.id(), "COMM-02") << e.what();
  }
}

}  // namespace
}  // namespace rookery
