// parallel.h: a pool of threads that splits [0, n) into one contiguous part per thread, always the same way,
// so sums over parts repeat bit for bit at the same number of threads. A Device owns one pool; there are no
// globals.
#pragma once

#include <cstdint>
#include <memory>

namespace rookery {

inline constexpr int kMaxThreads = 256;

class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);  // the caller is thread 0; num_threads - 1 more are started
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls body(context, part, parts) for part = 0 .. parts-1, parts <= num_threads(), and waits for all. An
  // exception of any part is rethrown here. Called from inside a body it runs the parts one after another.
  using Body = void (*)(void* context, int part, int parts);
  void run(int parts, Body body, void* context);

 private:
  struct State;
  int num_threads_;
  std::unique_ptr<State> state_;
};

// body(begin, end, part) on at most num_threads contiguous parts of [0, n); a part has at least `grain` items
// where n allows.
template <class F>
inline __attribute__((always_inline)) void parallel_parts(ThreadPool& pool, int64_t n, int64_t grain,
                                                          F&& body) {
  if (n <= 0) return;
  const int64_t most = grain > 1 ? n / grain : n;
  const int parts = static_cast<int>(most < pool.num_threads() ? most : pool.num_threads());
  if (parts <= 1) {
    body(int64_t{0}, n, 0);
    return;
  }
  struct Call {
    F* body;
    int64_t n;
  } call{&body, n};
  pool.run(
      parts,
      [](void* context, int part, int total) {
        auto& c = *static_cast<Call*>(context);
        (*c.body)(c.n * part / total, c.n * (part + 1) / total, part);
      },
      &call);
}

// body(begin, end) on contiguous parts of [0, n).
template <class F>
inline __attribute__((always_inline)) void parallel_for(ThreadPool& pool, int64_t n, int64_t grain,
                                                        F&& body) {
  parallel_parts(pool, n, grain, [&](int64_t begin, int64_t end, int) { body(begin, end); });
}

}  // namespace rookery
