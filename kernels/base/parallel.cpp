#include "kernels/base/parallel.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/base/error.h"

namespace rookery {
namespace {

thread_local bool inside_body = false;

// Parts of a training step follow each other within microseconds, so a thread looks for the next one this
// often before it sleeps.
constexpr int kSpins = 4000;

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> round{0};
  std::atomic<int> running{0};
  bool stopping = false;
  int parts = 0;
  Body body = nullptr;
  void* context = nullptr;
  std::exception_ptr error;
  std::vector<std::thread> threads;

  void stop() {
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    wake.notify_all();
    for (auto& thread : threads) thread.join();
  }

  void run_part(int part) {
    inside_body = true;
    try {
      body(context, part, parts);
    } catch (...) {
      std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
    inside_body = false;
  }

  void work(int part) {
    uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < kSpins && round.load(std::memory_order_acquire) == seen; ++i) relax();
      {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return stopping || round.load(std::memory_order_relaxed) != seen; });
        if (stopping) return;
        seen = round.load(std::memory_order_relaxed);
        if (part >= parts) continue;
      }
      run_part(part);
      running.fetch_sub(1, std::memory_order_acq_rel);
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads), state_(std::make_unique<State>()) {
  RK_CHECK(num_threads >= 1 && num_threads <= kMaxThreads, "[ThreadPool] 1 to ", kMaxThreads,
           " threads, got ", num_threads);
  try {
    for (int part = 1; part < num_threads; ++part)
      state_->threads.emplace_back([state = state_.get(), part] { state->work(part); });
  } catch (const std::system_error& e) {
    const size_t started = state_->threads.size() + 1;
    state_->stop();
    fail(ExitCode::kUnavailable, "CPU-04", "only ", started, " of ", num_threads,
         " threads could be started: ", e.what(),
         "; use fewer threads, or raise the limits that `ulimit -u` and `ulimit -v` show");
  }
}

ThreadPool::~ThreadPool() { state_->stop(); }

void ThreadPool::run(int parts, Body body, void* context) {
  RK_CHECK(parts >= 1 && parts <= num_threads_, "[ThreadPool] ", parts, " parts for ", num_threads_,
           " threads");
  if (inside_body || parts == 1) {
    for (int part = 0; part < parts; ++part) body(context, part, parts);
    return;
  }
  State& s = *state_;
  {
    std::lock_guard lock(s.mutex);
    s.parts = parts;
    s.body = body;
    s.context = context;
    s.error = nullptr;
    s.running.store(parts - 1, std::memory_order_relaxed);
    s.round.fetch_add(1, std::memory_order_release);
  }
  s.wake.notify_all();
  s.run_part(0);
  for (int i = 0; s.running.load(std::memory_order_acquire) > 0; ++i) {
    if (i < kSpins) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
  if (s.error) std::rethrow_exception(s.error);
}

}  // namespace rookery
