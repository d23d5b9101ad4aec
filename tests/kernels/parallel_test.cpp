// parallel_test.cpp: every item once, the same parts each time, and exceptions of any thread.
#include "kernels/base/parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "kernels/base/error.h"

namespace rookery {
namespace {

TEST(Parallel, EveryItemOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (const int64_t n : {0, 1, 2, 7, 100, 1000})
      for (const int64_t grain : {1, 3, 64}) {
        std::vector<int> seen(static_cast<size_t>(n), 0);
        std::mutex mutex;
        std::set<int> parts;
        parallel_parts(pool, n, grain, [&](int64_t begin, int64_t end, int part) {
          EXPECT_LT(begin, end);
          EXPECT_GE(end - begin, std::min(n, grain));
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
          std::lock_guard lock(mutex);
          EXPECT_TRUE(parts.insert(part).second);
        });
        EXPECT_EQ(seen, std::vector<int>(static_cast<size_t>(n), 1));
        EXPECT_LE(static_cast<int>(parts.size()), threads);
      }
  }
}

TEST(Parallel, PartsAreTheSameEachTime) {
  ThreadPool pool(3);
  std::vector<int64_t> first;
  for (int round = 0; round < 200; ++round) {
    std::vector<int64_t> begins(3, -1);
    parallel_parts(pool, 100, 1, [&](int64_t begin, int64_t, int part) { begins[part] = begin; });
    if (round == 0) first = begins;
    EXPECT_EQ(begins, first);
  }
}

// Rounds that use fewer threads than there are leave the others waiting for the next one.
TEST(Parallel, ManyRoundsOfChangingWidth) {
  ThreadPool pool(4);
  int64_t sum = 0, expected = 0;
  for (int64_t round = 0; round < 3000; ++round) {
    std::atomic<int64_t> count{0};
    const int64_t n = 1 + round % 5;
    parallel_for(pool, n, 1, [&](int64_t begin, int64_t end) { count += end - begin; });
    sum += count;
    expected += n;
  }
  EXPECT_EQ(sum, expected);
}

TEST(Parallel, ExceptionsOfAnyPart) {
  ThreadPool pool(3);
  for (int bad = 0; bad < 3; ++bad) {
    std::atomic<int> others{0};
    try {
      parallel_parts(pool, 3, 1, [&](int64_t, int64_t, int part) {
        if (part == bad) throw std::runtime_error("part " + std::to_string(part));
        ++others;
      });
      ADD_FAILURE() << "no exception";
    } catch (const std::runtime_error& e) {
      EXPECT_EQ(e.what(), "part " + std::to_string(bad));
    }
    EXPECT_EQ(others.load(), 2);  // they have ended: nothing runs on after the throw
  }
  std::atomic<int> after{0};
  parallel_for(pool, 3, 1, [&](int64_t, int64_t) { ++after; });
  EXPECT_EQ(after.load(), 3);
}

TEST(Parallel, InsideABodyPartsRunOneAfterAnother) {
  ThreadPool pool(2);
  std::atomic<int> inner{0};
  parallel_for(pool, 2, 1, [&](int64_t, int64_t) {
    const auto here = std::this_thread::get_id();
    parallel_for(pool, 10, 1, [&](int64_t begin, int64_t end) {
      EXPECT_EQ(std::this_thread::get_id(), here);
      inner += static_cast<int>(end - begin);
    });
  });
  EXPECT_EQ(inner.load(), 20);
}

TEST(Parallel, NumberOfThreadsIsChecked) {
  EXPECT_THROW(ThreadPool(0), Error);
  EXPECT_THROW(ThreadPool(kMaxThreads + 1), Error);
}

}  // namespace
}  // namespace rookery
