// comm_test.cpp: ranks as threads: what comm_cases.cpp cannot ask of processes, and what happens when a rank
// is late, calls something else, or fails.
#include "parallel/comm/communicator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "parallel/comm/threads.h"
#include "tests/support/ranks.h"

namespace rookery {

// On n threads, and for n = 1 also on the backend of one rank.
void test::on_ranks(int n, const std::function<void(Communicator&, Device&)>& body) {
  run_ranks(n, [&](Communicator& comm) {
    Device device(DeviceType::kCpu, 1);
    body(comm, device);
  });
  if (n > 1) return;
  Device device(DeviceType::kCpu, 1);
  body(*self_communicator(), device);
}

namespace {

using std::chrono::milliseconds;
using test::on_ranks;

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
