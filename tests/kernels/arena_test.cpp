// arena_test.cpp: a plan is replayed at the same addresses, never gives two living blocks the same memory,
// and gives way when a step asks or releases otherwise.
#include "kernels/tensor/arena.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>

#include "kernels/base/rng.h"
#include "kernels/tensor/tensor.h"

namespace rookery {
namespace {

// A block that notices when somebody else writes to its memory.
class Block {
 public:
  Block(Arena& arena, size_t bytes, unsigned char mark)
      : arena_(arena), bytes_(bytes), mark_(mark), ticket_(arena.allocate(bytes)) {
    std::memset(ticket_.data, mark, bytes);
  }
  Block(const Block&) = delete;
  ~Block() {
    for (size_t i = 0; i < bytes_; ++i)
      if (static_cast<unsigned char>(ticket_.data[i]) != mark_) {
        ADD_FAILURE() << "block " << int{mark_} << " was overwritten at byte " << i;
        break;
      }
    arena_.release(ticket_, bytes_);
  }
  const std::byte* data() const { return ticket_.data; }

 private:
  Arena& arena_;
  size_t bytes_;
  unsigned char mark_;
  Arena::Ticket ticket_;
};

// Allocations and releases in an order drawn from `seed`; returns the addresses. Blocks left at the end die
// before the step does.
std::vector<const std::byte*> random_step(Arena& arena, uint64_t seed, int operations) {
  const Philox random(seed, 0);
  std::vector<std::unique_ptr<Block>> live;
  std::vector<const std::byte*> addresses;
  arena.begin_step("random");
  for (int i = 0; i < operations; ++i) {
    const uint64_t bits = random.bits(i);
    if (live.empty() || bits % 5 < 3) {
      live.push_back(std::make_unique<Block>(arena, (bits >> 8) % 5000, static_cast<unsigned char>(i)));
      addresses.push_back(live.back()->data());
      EXPECT_EQ(reinterpret_cast<uintptr_t>(addresses.back()) % 64, 0u);
    } else {
      live.erase(live.begin() + static_cast<int64_t>((bits >> 8) % live.size()));
    }
  }
  live.clear();
  arena.end_step();
  return addresses;
}

TEST(Arena, ReplayGivesTheSameAddresses) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Arena arena;
    arena.on_replan = [](const std::string& why) { ADD_FAILURE() << why; };
    random_step(arena, seed, 300);
    const Arena::Plan* plan = arena.plan("random");
    ASSERT_NE(plan, nullptr);
    EXPECT_GE(plan->slab_bytes, plan->peak_bytes);
    EXPECT_LE(static_cast<double>(plan->slab_bytes), 1.3 * static_cast<double>(plan->peak_bytes));
    EXPECT_GE(plan->total_bytes, plan->peak_bytes);
    const auto first = random_step(arena, seed, 300), second = random_step(arena, seed, 300);
    EXPECT_EQ(plan->requests, static_cast<int64_t>(first.size()));
    EXPECT_EQ(first, second);
  }
}

TEST(Arena, AnotherRequestMakesANewPlan) {
  Arena arena;
  int replans = 0;
  arena.on_replan = [&](const std::string&) { ++replans; };
  for (int round = 0; round < 3; ++round) {
    const uint64_t seed = 100 + round;
    random_step(arena, seed, 200);  // leaves the plan of the round before
    EXPECT_EQ(replans, round);
    random_step(arena, seed, 200);
    random_step(arena, seed, 200);
    EXPECT_EQ(replans, round);
    EXPECT_NE(arena.plan("random"), nullptr);
  }
}

TEST(Arena, StepsOfOtherKeysHavePlansOfTheirOwn) {
  Arena arena;
  arena.on_replan = [](const std::string& why) { ADD_FAILURE() << why; };
  for (int round = 0; round < 3; ++round)
    for (const size_t bytes : {1000, 100000}) {
      arena.begin_step(std::to_string(bytes));
      Block a(arena, bytes, 1);
      { Block b(arena, 2 * bytes, 2); }
      Block c(arena, bytes, 3);
      arena.end_step();
    }
}

// The same requests, but a block lives longer than planned: its memory must not go to the next request.
TEST(Arena, ReleasesInAnotherOrder) {
  Arena arena;
  int replans = 0;
  arena.on_replan = [&](const std::string&) { ++replans; };
  auto step = [&](bool other_order) {
    arena.begin_step("step");
    auto a = std::make_unique<Block>(arena, 1000, 1);
    auto b = std::make_unique<Block>(arena, 1000, 2);
    (other_order ? b : a).reset();
    auto c = std::make_unique<Block>(arena, 1000, 3);
    a.reset();
    b.reset();
    c.reset();
    arena.end_step();
  };
  step(false);
  step(false);
  EXPECT_EQ(replans, 0);
  step(true);
  EXPECT_EQ(replans, 1);
  step(true);
  step(true);
  EXPECT_EQ(replans, 1);
}

TEST(Arena, BlocksThatOutliveTheStep) {
  Arena arena;
  arena.on_replan = [](const std::string& why) { ADD_FAILURE() << why; };
  std::unique_ptr<Block> kept;
  for (unsigned char round = 1; round < 6; ++round) {
    arena.begin_step("step");
    auto scratch = std::make_unique<Block>(arena, 3000, static_cast<unsigned char>(10 + round));
    auto next = std::make_unique<Block>(arena, 3000, round);
    scratch.reset();
    kept = std::move(next);  // the one of the step before dies inside this step
    Block more(arena, 3000, static_cast<unsigned char>(20 + round));
    arena.end_step();
  }
  EXPECT_EQ(arena.persistent_bytes(), 0u);
}

// Planned to die in the step, yet it does not: the slab stays until it does.
TEST(Arena, UnplannedSurvivorKeepsItsMemory) {
  Arena arena;
  int replans = 0;
  arena.on_replan = [&](const std::string&) { ++replans; };
  std::unique_ptr<Block> survivor;
  for (int round = 0; round < 5; ++round) {
    arena.begin_step("step");
    auto a = std::make_unique<Block>(arena, 2000, static_cast<unsigned char>(round));
    if (round == 2) survivor = std::move(a);
    a.reset();
    arena.end_step();
  }
  EXPECT_EQ(replans, 1);
  survivor.reset();
}

TEST(Arena, PersistentBytesAreCounted) {
  Device device(DeviceType::kCpu, 1);
  {
    const Tensor t = zeros({100}, DType::kF32, device);
    EXPECT_EQ(device.arena().persistent_bytes(), 448u);  // 400 in lines of 64
    const Tensor view = t.narrow(10, 5);
    EXPECT_EQ(view.data<float>(), t.data<float>() + 10);
  }
  EXPECT_EQ(device.arena().persistent_bytes(), 0u);
}

TEST(Arena, GuardsFindWritesOutside) {
  Device device(DeviceType::kCpu, 1);
  device.arena().guard_blocks();
  {
    const Tensor t = empty({3}, DType::kF32, device);
    EXPECT_TRUE(std::isnan(t.data<float>()[2]));
    t.data<float>()[3] = 0;
  }
  EXPECT_EQ(device.arena().damaged_blocks(), 1);
  { empty({3}, DType::kF32, device).raw()[-1] = std::byte{0}; }
  EXPECT_EQ(device.arena().damaged_blocks(), 2);
  { fill_zero(empty({3}, DType::kF32, device)); }
  EXPECT_EQ(device.arena().damaged_blocks(), 2);
}

TEST(Arena, StepsDoNotNest) {
  Arena arena;
  EXPECT_THROW(arena.end_step(), Error);
  arena.begin_step("a");
  EXPECT_THROW(arena.begin_step("b"), Error);
  arena.end_step();
  EXPECT_EQ(arena.plan("b"), nullptr);
}

// A plan for a model that this machine could not hold.
TEST(Arena, AddressesOnlyTakesNoMemory) {
  Device meta(DeviceType::kMeta, 1);
  const Shape huge{1 << 20, 1 << 20};  // 4 TiB
  Tensor outside = empty(huge, DType::kF32, meta);
  for (int step = 0; step < 2; ++step) {
    meta.arena().begin_step("huge");
    const Tensor inside = empty(huge, DType::kF32, meta);
    EXPECT_EQ(inside.bytes(), size_t{4} << 40);
    meta.arena().end_step();
  }
}

}  // namespace
}  // namespace rookery
