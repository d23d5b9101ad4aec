// comm_stream_test.cpp: collectives of a queue run in order beside those of the caller; errors arrive where
// the caller waits; nobody hangs when a rank leaves in haste.
#include "parallel/comm/comm_stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>

#include "parallel/comm/threads.h"

namespace rookery {
namespace {

constexpr std::chrono::milliseconds kMinute{60'000};

Tensor number(double value, Device& device) {
  return tensor_from(std::span<const double>(&value, 1), {1}, DType::kF64, device);
}

TEST(CommStream, CollectivesOfTheQueueAndOfTheCallerDoNotMeet) {
  for (const int ranks : {1, 2, 4})
    run_ranks(ranks, [&](Communicator& world) {
      Device device(DeviceType::kCpu, 1);
      const auto behind = world.split(0, world.rank());
      CommStream stream(world);
      std::vector<Tensor> sums;
      for (int i = 0; i < 20; ++i) {
        sums.push_back(number(100.0 * i + world.rank(), device));
        stream.submit([&comm = *behind, sum = sums.back()] { comm.all_reduce(sum, Reduce::kSum); });
        const Tensor largest = number(world.rank() - i, device);
        world.all_reduce(largest, Reduce::kMax);
        EXPECT_EQ(largest.data<double>()[0], ranks - 1 - i);
      }
      EXPECT_EQ(stream.last(), 20u);
      stream.wait(7);
      EXPECT_TRUE(stream.done(7));
      stream.finish();
      for (int i = 0; i < 20; ++i)
        EXPECT_EQ(sums[static_cast<size_t>(i)].data<double>()[0],
                  100.0 * i * ranks + ranks * (ranks - 1) / 2.0);
    });
}

TEST(CommStream, WorkIsDoneInOrderAndLetGoWhereTheCallerWaits) {
  const auto self = self_communicator();
  CommStream stream(*self);
  stream.wait(0);
  std::vector<int> order;
  std::vector<std::shared_ptr<int>> held;
  std::promise<void> gate;
  stream.submit([&] { gate.get_future().wait(); });
  EXPECT_FALSE(stream.done(1));
  for (int i = 0; i < 5; ++i) {
    held.push_back(std::make_shared<int>(i));
    stream.submit([&order, mine = held.back()] { order.push_back(*mine); });
  }
  gate.set_value();
  stream.wait(4);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(held[i].use_count(), 1);
  EXPECT_EQ(held[3].use_count(), 2);  // done or not
  stream.finish();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4}));
  for (const auto& h : held) EXPECT_EQ(h.use_count(), 1);
}

TEST(CommStream, TheDestructorFinishesTheWork) {
  const auto self = self_communicator();
  int done = 0;
  {
    CommStream stream(*self);
    for (int i = 0; i < 3; ++i) stream.submit([&] { ++done; });
  }
  EXPECT_EQ(done, 3);
}

TEST(CommStream, AnErrorIsThrownByEachWaitFromThereOn) {
  const auto self = self_communicator();
  CommStream stream(*self);
  bool reached = false;
  const auto good = stream.submit([] {});
  const auto bad = stream.submit([] { fail(ExitCode::kNumerics, "NUM-01", "not a number"); });
  try {
    stream.wait(stream.submit([&] { reached = true; }));
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kNumerics);
  }
  stream.wait(good);
  EXPECT_THROW(stream.wait(bad), Error);
  EXPECT_THROW(stream.submit([] {}), Error);
  EXPECT_FALSE(reached);
}

// Rank 0 fails while its queue waits for rank 1, which never comes: the destructor ends that at once.
TEST(CommStream, ARankThatLeavesInHasteWaitsForNobody) {
  std::atomic<int> woken{0};
  const auto begin = std::chrono::steady_clock::now();
  try {
    run_ranks(
        3,
        [&](Communicator& world) {
          const auto behind = world.split(0, world.rank());
          CommStream stream(world);
          if (world.rank() != 1) stream.submit([&] { behind->barrier(); });
          if (world.rank() != 1) stream.submit([&] { behind->barrier(); });
          if (world.rank() == 0) fail(ExitCode::kNumerics, "NUM-01", "not a number");
          try {
            if (world.rank() == 1) world.barrier();
            stream.finish();
          } catch (const Error& e) {
            EXPECT_EQ(e.code(), ExitCode::kPeerFailed);
            ++woken;
            throw;
          }
        },
        kMinute);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.id(), "NUM-01") << e.what();
  }
  EXPECT_EQ(woken.load(), 2);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, kMinute / 2);
}

}  // namespace
}  // namespace rookery
