// threads.cpp: a collective is a meeting, where every rank shows its pointers and what it calls, then work on
// each other's memory, then a second meeting, after which nobody looks at it any more. A rank that leaves by
// an error waits for the others' work, too: its tensors die with it.
#include "parallel/comm/threads.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

#include "parallel/comm/reduce.h"

namespace rookery {
namespace {

using comm_detail::dispatch_number;
using comm_detail::part_begin;
using comm_detail::reduce_range;

// Shared by all communicators of one run_ranks(): one lock, one way to wake everybody.
struct World {
  explicit World(std::chrono::milliseconds limit) : timeout(limit) {}
  std::mutex mutex;
  std::condition_variable wake;
  std::chrono::milliseconds timeout;
  bool aborted = false;
  std::string why;

  void abort_locked(std::string_view reason) {
    if (aborted) return;
    aborted = true;
    why = reason;
    wake.notify_all();
  }
};

struct Group;

// What one rank shows to the others.
struct Call {
  std::string what;  // equal on all ranks, or it is a mistake: "all_reduce (sum) of 12 f32"
  const std::byte* in = nullptr;
  std::byte* out = nullptr;
  std::vector<int64_t> send_begin = {};  // all_to_all, in rows
  int colour = 0, key = 0;               // split
  std::shared_ptr<Group> made = {};      // split, by the first rank of a colour
};

struct Message {
  std::string what;
  std::vector<std::byte> bytes;
};

struct Group {
  Group(std::shared_ptr<World> of, std::vector<int> ranks)
      : world(std::move(of)),
        world_ranks(std::move(ranks)),
        calls(world_ranks.size()),
        here(world_ranks.size()) {}
  std::shared_ptr<World> world;
  std::vector<int> world_ranks;
  std::vector<Call> calls;
  std::vector<bool> here;
  size_t arrived = 0;
  uint64_t meeting = 0;
  size_t working = 0;                                       // ranks that may still look at the others' memory
  std::map<std::pair<int, int>, std::deque<Message>> mail;  // (from, to)
};

// A rank's work on the others' memory, after a meeting that announced it.
class Work {
 public:
  explicit Work(Group& group) : group_(group) {}
  Work(const Work&) = delete;
  ~Work() {
    std::unique_lock lock(group_.world->mutex);
    if (--group_.working == 0) group_.world->wake.notify_all();
    if (std::uncaught_exceptions() > exceptions_)
      group_.world->wake.wait(lock, [&] { return group_.working == 0; });
  }

 private:
  Group& group_;
  int exceptions_ = std::uncaught_exceptions();
};

enum class Then { kWork, kNothing };  // what follows a meeting

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Group> group, int rank) : group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(group_->world_ranks.size()); }

  void all_reduce(const Tensor& data, Reduce op) override {
    const auto calls = show({str("all_reduce (", op, ") of ", size_of(data)), data.raw(), data.raw()});
    const size_t width = dtype_size(data.dtype());
    auto begin_of = [&](int r) { return part_begin(data.numel(), r, size()); };
    add_count(Collective::kAllReduce, comm_detail::all_reduce_bytes(data, rank_, size()));
    {
      const Work work(*group_);
      dispatch_number(data.dtype(), [&]<class T>() {
        reduce_range<T>(inputs<T>(calls), data.data<T>(), begin_of(rank_), begin_of(rank_ + 1), op);
      });
    }
    meet(Then::kWork);  // rank r now holds part r of the result
    finish([&] {
      for (int r = 0; r < size(); ++r)
        if (r != rank_)
          std::memcpy(data.raw() + begin_of(r) * width, calls[r].in + begin_of(r) * width,
                      (begin_of(r + 1) - begin_of(r)) * width);
    });
  }

  void reduce_scatter(const Tensor& in, const Tensor& out, Reduce op) override {
    comm_detail::check_slices(in, out, size(), "[reduce_scatter] in");
    const auto calls = show({str("reduce_scatter (", op, ") of ", size_of(in)), in.raw(), out.raw()});
    const int64_t n = out.numel();
    add_count(Collective::kReduceScatter, static_cast<int64_t>(out.bytes()) * (size() - 1));
    finish([&] {
      dispatch_number(in.dtype(), [&]<class T>() {
        auto slices = inputs<T>(calls);
        for (auto& slice : slices) slice += n * rank_;
        reduce_range<T>(slices, out.data<T>(), 0, n, op);
      });
    });
  }

  void all_gather(const Tensor& in, const Tensor& out) override {
    comm_detail::check_slices(out, in, size(), "[all_gather] out");
    const auto calls = show({str("all_gather of ", size_of(in)), in.raw(), out.raw()});
    add_count(Collective::kAllGather, static_cast<int64_t>(in.bytes()) * (size() - 1));
    finish([&] {
      for (int r = 0; r < size(); ++r) {
        std::byte* to = out.raw() + r * in.bytes();
        if (to != calls[r].in) std::memcpy(to, calls[r].in, in.bytes());
      }
    });
  }

  void all_to_all(const Tensor& in, const Tensor& out, const RowCounts& rows) override {
    const auto ranges = comm_detail::row_ranges(in, out, rows, size());
    const size_t width = comm_detail::row_bytes(in);
    RK_CHECK(comm_detail::row_bytes(out) == width, "[all_to_all] rows of ", in.shape(), " and ", out.shape());
    const auto calls =
        show({str("all_to_all of rows of ", width, " bytes"), in.raw(), out.raw(), ranges.send_begin});
    const int64_t to_me = ranges.send_begin[rank_ + 1] - ranges.send_begin[rank_];
    add_count(Collective::kAllToAll, (in.dim(0) - to_me) * static_cast<int64_t>(width));
    finish([&] {
      for (int r = 0; r < size(); ++r) {
        const int64_t begin = calls[r].send_begin[rank_], count = calls[r].send_begin[rank_ + 1] - begin;
        const int64_t expected = ranges.recv_begin[r + 1] - ranges.recv_begin[r];
        if (count != expected)
          differ(str("rank ", name(rank_), " expects ", expected, " rows from rank ", name(r),
                     ", which sends ", count));
        std::memcpy(out.raw() + ranges.recv_begin[r] * width, calls[r].in + begin * width, count * width);
      }
    });
  }

  void broadcast(const Tensor& data, int root) override {
    check_rank(root, "[broadcast]");
    const auto calls =
        show({str("broadcast of ", size_of(data), " from rank ", root), data.raw(), data.raw()});
    add_count(Collective::kBroadcast, comm_detail::broadcast_bytes(data, root, rank_, size()));
    finish([&] {
      if (rank_ != root) std::memcpy(data.raw(), calls[root].in, data.bytes());
    });
  }

  void send(const Tensor& data, int to) override {
    check_rank(to, "[send]");
    add_count(Collective::kSend, to == rank_ ? 0 : static_cast<int64_t>(data.bytes()));
    Message message{size_of(data), {data.raw(), data.raw() + data.bytes()}};
    std::lock_guard lock(world().mutex);
    check_aborted();
    group_->mail[{rank_, to}].push_back(std::move(message));
    world().wake.notify_all();
  }

  void recv(const Tensor& data, int from) override {
    check_rank(from, "[recv]");
    add_count(Collective::kRecv, 0);
    std::unique_lock lock(world().mutex);
    auto& box = group_->mail[{from, rank_}];
    wait(
        lock, [&] { return !box.empty(); },
        [&] {
          return str("rank ", name(rank_), " waits in recv of ", size_of(data), " for rank ", name(from));
        });
    const Message message = std::move(box.front());
    box.pop_front();
    lock.unlock();
    if (message.what != size_of(data))
      differ(str("rank ", name(from), " sends ", message.what, ", rank ", name(rank_), " receives ",
                 size_of(data)));
    std::memcpy(data.raw(), message.bytes.data(), data.bytes());
  }

  void barrier() override {
    add_count(Collective::kBarrier, 0);
    show({"barrier"}, Then::kNothing);
  }

  std::unique_ptr<Communicator> split(int colour, int key) override {
    add_count(Collective::kSplit, 0);
    Call mine{"split"};
    mine.colour = colour;
    mine.key = key;
    const auto calls = show(mine, Then::kNothing);
    meet(Then::kNothing);
    std::vector<int> members;
    for (int r = 0; r < size(); ++r)
      if (calls[r].colour == colour) members.push_back(r);
    std::stable_sort(members.begin(), members.end(),
                     [&](int a, int b) { return calls[a].key < calls[b].key; });
    const int my_place = static_cast<int>(std::find(members.begin(), members.end(), rank_) - members.begin());
    Call founded{"split"};
    if (colour >= 0 && my_place == 0) {
      std::vector<int> names;
      for (const int r : members) names.push_back(name(r));
      founded.made = std::make_shared<Group>(group_->world, names);
    }
    const auto groups = show(founded, Then::kNothing);
    meet(Then::kNothing);
    if (colour < 0) return nullptr;
    return std::make_unique<ThreadCommunicator>(groups[members[0]].made, my_place);
  }

  void abort(std::string_view why) override {
    std::lock_guard lock(world().mutex);
    world().abort_locked(str("rank ", name(rank_), ": ", why));
  }

 private:
  World& world() const { return *group_->world; }
  int name(int rank) const { return group_->world_ranks[rank]; }  // messages tell ranks of the world
  static std::string size_of(const Tensor& t) { return str(t.numel(), " ", t.dtype()); }
  void check_rank(int rank, std::string_view who) const {
    RK_CHECK(rank >= 0 && rank < size(), who, " rank ", rank, " of ", size());
  }
  void check_aborted() const {
    if (world().aborted) fail(ExitCode::kPeerFailed, kPeerFailedId, "another rank failed: ", world().why);
  }
  // Before leaving by an error out of a meeting.
  void await_work(std::unique_lock<std::mutex>& lock) const {
    world().wake.wait(lock, [this] { return group_->working == 0; });
  }
  template <class T>
  static std::vector<const T*> inputs(const std::vector<Call>& calls) {
    std::vector<const T*> in;
    for (const Call& call : calls) in.push_back(reinterpret_cast<const T*>(call.in));
    return in;
  }
  [[noreturn]] void differ(const std::string& what) const {
    {
      std::lock_guard lock(world().mutex);
      world().abort_locked(what);
    }
    fail(ExitCode::kInternal, kMismatchId, what);
  }

  // Waits for `ready` under the lock. `waiting` tells what for when the time is over.
  template <class Ready, class Waiting>
  void wait(std::unique_lock<std::mutex>& lock, Ready ready, Waiting waiting) {
    World& w = world();
    if (!w.wake.wait_for(lock, w.timeout, [&] { return w.aborted || ready(); })) {
      const std::string what = str(waiting(), "; nothing came within ", w.timeout.count(), " ms");
      w.abort_locked(what);
      await_work(lock);
      fail(ExitCode::kHang, kTimeoutId, what);
    }
    if (ready()) return;
    await_work(lock);
    check_aborted();
  }

  // Meets the other ranks with what each of them calls; the last to come compares. The calls stand until the
  // next show(), so a meet() stands between two of them.
  std::vector<Call> show(const Call& mine, Then then = Then::kWork) {
    std::unique_lock lock(world().mutex);
    check_aborted();
    Group& g = *group_;
    g.calls[rank_] = mine;
    if (g.arrived + 1 == g.calls.size())
      for (int r = 0; r < size(); ++r)
        if (g.calls[r].what != mine.what) {
          lock.unlock();
          differ(str("rank ", name(r), " calls ", g.calls[r].what, ", rank ", name(rank_), " calls ",
                     mine.what));
        }
    arrive(lock, then);
    return g.calls;
  }

  void meet(Then then) {
    std::unique_lock lock(world().mutex);
    if (world().aborted) await_work(lock);
    check_aborted();
    arrive(lock, then);
  }

  // The last part of a collective: work on what show() showed, then the meeting after which it may go.
  template <class F>
  void finish(F&& body) {
    {
      const Work work(*group_);
      body();
    }
    meet(Then::kNothing);
  }

  void arrive(std::unique_lock<std::mutex>& lock, Then then) {
    Group& g = *group_;
    if (++g.arrived == g.calls.size()) {
      g.arrived = 0;
      g.working = then == Then::kWork ? g.calls.size() : 0;
      g.here.assign(g.here.size(), false);
      ++g.meeting;
      world().wake.notify_all();
      return;
    }
    g.here[rank_] = true;
    wait(
        lock, [&g, mine = g.meeting] { return g.meeting != mine; },
        [&] {
          std::string missing;
          for (int r = 0; r < size(); ++r)
            if (!g.here[r]) missing += str(missing.empty() ? "" : ", ", name(r));
          return str("rank ", name(rank_), " waits in ", g.calls[rank_].what, " for rank ", missing);
        });
  }

  std::shared_ptr<Group> group_;
  int rank_;
};

}  // namespace

void run_ranks(int size, const std::function<void(Communicator&)>& body, std::chrono::milliseconds timeout) {
  RK_CHECK(size >= 1, "[run_ranks] at least 1 rank, got ", size);
  const auto world = std::make_shared<World>(timeout);
  std::vector<int> ranks;
  for (int r = 0; r < size; ++r) ranks.push_back(r);
  const auto group = std::make_shared<Group>(world, ranks);
  std::exception_ptr first;
  bool is_echo = true;  // only tells that another rank failed
  auto run = [&](int rank) {
    ThreadCommunicator communicator(group, rank);
    try {
      body(communicator);
    } catch (const std::exception& e) {
      std::lock_guard lock(world->mutex);
      const auto* error = dynamic_cast<const Error*>(&e);
      const bool echo = error != nullptr && error->id() == kPeerFailedId;
      if (!first || (is_echo && !echo)) {
        first = std::current_exception();
        is_echo = echo;
      }
      world->abort_locked(str("rank ", rank, ": ", e.what()));
    }
  };
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) threads.emplace_back(run, r);
  for (auto& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace rookery
