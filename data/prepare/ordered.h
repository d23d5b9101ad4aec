// ordered.h: a pipeline with one producer, many workers and one consumer that sees the results in the order
// of production.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace rookery::data {

// produce: one thread at a time, an Item or nothing at the end. work: many threads. consume: the calling
// thread, in order. At most 2 * workers + 2 items are under way, so memory is bounded. The first error in the
// order of production is thrown, after all that comes before it was consumed: an outcome does not depend on
// the number of workers.
template <class Item, class Result>
void run_ordered(int workers, const std::function<std::optional<Item>()>& produce,
                 const std::function<Result(Item)>& work, const std::function<void(Result)>& consume) {
  struct Outcome {
    std::optional<Result> result;
    std::exception_ptr error;
  };
  std::mutex mutex;
  std::condition_variable changed;
  std::map<int64_t, Outcome> done;
  int64_t produced = 0, consumed = 0;
  bool ended = false;  // nothing more is produced
  const int64_t limit = 2 * workers + 2;

  auto worker = [&] {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [&] { return ended || produced - consumed < limit; });
      if (ended) return;
      const int64_t number = produced++;
      Outcome outcome;
      std::optional<Item> item;
      try {
        item = produce();  // under the lock: items are cheap to produce beside the work on them
        if (!item) {
          ended = true;
          --produced;
          changed.notify_all();
          return;
        }
      } catch (...) {
        outcome.error = std::current_exception();
        ended = true;
      }
      if (item) {
        lock.unlock();
        try {
          outcome.result = work(std::move(*item));
        } catch (...) {
          outcome.error = std::current_exception();
        }
        lock.lock();
        if (outcome.error) ended = true;
      }
      done.emplace(number, std::move(outcome));
      changed.notify_all();
    }
  };

  std::vector<std::thread> threads;
  auto stop = [&] {
    {
      std::lock_guard lock(mutex);
      ended = true;
    }
    changed.notify_all();
    for (auto& thread : threads) thread.join();
  };
  try {
    for (int i = 0; i < workers; ++i) threads.emplace_back(worker);
    while (true) {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return done.count(consumed) || (ended && consumed == produced); });
      if (!done.count(consumed)) break;
      Outcome outcome = std::move(done.extract(consumed).mapped());
      ++consumed;
      changed.notify_all();
      lock.unlock();
      if (outcome.error) std::rethrow_exception(outcome.error);
      consume(std::move(*outcome.result));
    }
  } catch (...) {
    stop();
    throw;
  }
  stop();
}

}  // namespace rookery::data
