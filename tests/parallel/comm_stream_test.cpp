// comm_stream_test.cpp: collectives of a queue run in order beside those of the caller; errors arrive where
// the caller waits; nobody hangs when a rank leaves in haste.
#include "parallel/comm/comm_stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>

#include "kernels/tensor/side_stream.h"
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

// An accelerator that notes what is asked of its two streams.
class TwoStreams : public Accelerator, public SideStream {
 public:
  explicit TwoStreams(std::vector<std::string>& log) : log_(log) {}
  std::string name() const override { return "two streams"; }
  void* stream() const override { return nullptr; }
  void synchronize() override {}
  std::byte* allocate(size_t bytes) override { return new std::byte[bytes]; }
  void free(std::byte* data) noexcept override { delete[] data; }
  Memory memory() const override { return {}; }
  void upload(const void*, std::byte*, size_t) override {}
  void download(const std::byte*, void*, size_t) override {}
  std::unique_ptr<Pending> begin_download(const std::byte*, size_t) override { return nullptr; }
  void copy(const std::byte*, std::byte*, size_t) override {}
  void copy_rows(const std::byte*, size_t, std::byte*, size_t, size_t, size_t) override {}
  void fill(std::byte*, unsigned char, size_t) override { log_.push_back(aside_ ? "fill aside" : "fill"); }
  void convert(const Tensor&, const Tensor&) override {}
  void sum(const Tensor&, const Tensor&, const Tensor&) override {}
  std::unique_ptr<Replay> capture(const std::function<void()>&) override { return nullptr; }
  std::unique_ptr<Mark> mark() override { return nullptr; }
  void begin_range(const std::string&) override {}
  void end_range() override {}

  struct End : Point {
    explicit End(int n) : number(n) {}
    int number;
  };
  std::unique_ptr<Point> aside(const std::function<void()>& work) override {
    aside_ = true;
    try {
      work();
    } catch (...) {
      aside_ = false;
      throw;
    }
    aside_ = false;
    return std::make_unique<End>(++points_);
  }
  void join(const Point& point) override {
    log_.push_back(str("join ", static_cast<const End&>(point).number));
  }

 private:
  std::vector<std::string>& log_;
  bool aside_ = false;
  int points_ = 0;
};

TEST(CommStream, OfAGpuLaunchesAtOnceAndJoinsWhereTheCallerWaits) {
  std::vector<std::string> log;
  Device device(std::make_unique<TwoStreams>(log), 1);
  const auto self = self_communicator();
  auto held = std::make_shared<int>(0);
  {
    const Tensor x = empty({4}, DType::kF32, device);
    CommStream stream(*self, device);
    const auto first = stream.submit([x, held] { fill_zero(x); });
    fill_zero(x);
    EXPECT_TRUE(stream.done(first));
    EXPECT_EQ(held.use_count(), 2);
    stream.wait(first);
    EXPECT_EQ(held.use_count(), 1);
    stream.wait(first);  // has been joined
    EXPECT_THROW(stream.submit([] { fail(ExitCode::kUnavailable, "X-01", "no"); }), Error);
    stream.submit([x] { fill_zero(x); });
  }
  EXPECT_EQ(log, (std::vector<std::string>{"fill aside", "fill", "join 1", "fill aside", "join 2"}));
}

}  // namespace
}  // namespace rookery
