// mpi.cpp: collectives from non-blocking messages between pairs of ranks (parallel/comm/mpi.h). MPI's own
// collectives sum in an order of their choice and wait without end; here a wait ends at the time limit or at
// the alarm. A communicator is a list of ranks and a range of tags on one communicator of MPI, so that making
// one never blocks inside MPI either.
#include "parallel/comm/mpi.h"

#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <exception>
#include <thread>

#include "parallel/comm/reduce.h"

namespace rookery::mpi {

using std::chrono::milliseconds;

// Shared by the session and its communicators.
struct Session::State {
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0, size = 1, local_rank = 0, local_size = 1, highest_tag = 0;
  std::atomic<int> inside{0};   // threads that wait in MPI
  std::atomic<int> next_id{1};  // of communicators; 0 is the world
  bool finished = false;
};

namespace {

using comm_detail::part_begin;
using Clock = std::chrono::steady_clock;

[[noreturn]] void call_failed(const char* call, int error) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(error, text, &length);
  fail(ExitCode::kPeerFailed, kPeerFailedId, call, ": ", std::string_view(text, static_cast<size_t>(length)));
}
#define RK_MPI(call)                                                       \
  do {                                                                     \
    if (const int rk_error = (call); rk_error != MPI_SUCCESS) [[unlikely]] \
      call_failed(#call, rk_error);                                        \
  } while (false)

// Between two looks at what has arrived: gives the core to who needs it, then sleeps, since ranks may well be
// more than cores and the thread may wait beside one that computes.
class Pause {
 public:
  void operator()() {
    if (Clock::now() - begin_ < kYieldFor) {
      ::sched_yield();
    } else {
      std::this_thread::sleep_for(sleep_);
      sleep_ = std::min(2 * sleep_, kLongest);
    }
  }
  void reset() {
    begin_ = Clock::now();
    sleep_ = kShortest;
  }
  Clock::duration waited() const { return Clock::now() - begin_; }

 private:
  static constexpr std::chrono::microseconds kYieldFor{100}, kShortest{20}, kLongest{500};
  Clock::time_point begin_ = Clock::now();
  std::chrono::microseconds sleep_ = kShortest;
};

// Messages under way.
struct Requests {
  std::vector<MPI_Request> handles;
  std::vector<int> peer;
  std::vector<int> expected;  // bytes; kSent: a send
  static constexpr int kSent = -1;

  void clear() {
    handles.clear();
    peer.clear();
    expected.clear();
  }
};

constexpr size_t kMaxMessage = size_t{1} << 30;    // MPI counts in int
constexpr int64_t kChunkBytes = int64_t{1} << 19;  // of a part: what is summed while the next is on its way

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(std::shared_ptr<Session::State> state, std::shared_ptr<Watch> watch, int id,
                  std::vector<int> ranks)
      : state_(std::move(state)), watch_(std::move(watch)), id_(id), ranks_(std::move(ranks)) {
    rank_ = static_cast<int>(std::find(ranks_.begin(), ranks_.end(), state_->rank) - ranks_.begin());
    RK_CHECK(id_ <= (state_->highest_tag - kTags) / kTags, "[split] ", id_, " communicators were made");
  }

  // What was sent and not received yet must lie still until it is. After an error nobody asks for it, and
  // nobody is waited for.
  ~MpiCommunicator() override {
    const bool healthy = std::uncaught_exceptions() == exceptions_ && !watch_->raised();
    try {
      for (Message& m : sent_)
        if (healthy) wait(m.requests, "~Communicator");
    } catch (const Error&) {
    }
    if (!healthy || watch_->raised())
      for (Message& m : sent_) static_cast<void>(m.bytes.release());  // MPI may still read it
  }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(ranks_.size()); }

  void all_reduce(const Tensor& data, Reduce op) override {
    const Call call(*this, Collective::kAllReduce, data.bytes(), [&] { return described(op, data); });
    add_count(Collective::kAllReduce, comm_detail::all_reduce_bytes(data, rank_, size()));
    comm_detail::dispatch_number(data.dtype(), [&]<class T>() {
      if (comm_detail::is_short(data)) {
        exchange_and_reduce<T>(data, op);
      } else {
        reduce_parts<T>(op, data.data<T>(), data.data<T>(), data.numel(), Then::kGather);
      }
    });
  }

  void reduce_scatter(const Tensor& in, const Tensor& out, Reduce op) override {
    comm_detail::check_slices(in, out, size(), "[reduce_scatter] in");
    const Call call(*this, Collective::kReduceScatter, in.bytes(), [&] { return described(op, in); });
    add_count(Collective::kReduceScatter, static_cast<int64_t>(out.bytes()) * (size() - 1));
    comm_detail::dispatch_number(in.dtype(), [&]<class T>() {
      reduce_parts<T>(op, in.data<T>(), out.data<T>() - rank_ * out.numel(), in.numel(), Then::kNothing);
    });
  }

  void all_gather(const Tensor& in, const Tensor& out) override {
    comm_detail::check_slices(out, in, size(), "[all_gather] out");
    const Call call(*this, Collective::kAllGather, in.bytes(), [&] { return size_of(in); });
    add_count(Collective::kAllGather, static_cast<int64_t>(in.bytes()) * (size() - 1));
    Requests& r = second_;
    r.clear();
    for (const int other : others()) receive(r, out.raw() + other * in.bytes(), in.bytes(), other, kResults);
    for (const int other : others()) send_to(r, in.raw(), in.bytes(), other, kResults);
    if (std::byte* mine = out.raw() + rank_ * in.bytes(); mine != in.raw())
      std::memcpy(mine, in.raw(), in.bytes());
    wait(r, call.what());
  }

  void all_to_all(const Tensor& in, const Tensor& out, const RowCounts& rows) override {
    const auto ranges = comm_detail::row_ranges(in, out, rows, size());
    const size_t width = comm_detail::row_bytes(in);
    RK_CHECK(comm_detail::row_bytes(out) == width, "[all_to_all] rows of ", in.shape(), " and ", out.shape());
    const Call call(*this, Collective::kAllToAll, in.bytes(),
                    [&] { return str("of rows of ", width, " bytes"); });
    auto bytes = [&](const std::vector<int64_t>& begin, int r) {
      return static_cast<size_t>(begin[r + 1] - begin[r]) * width;
    };
    add_count(Collective::kAllToAll, static_cast<int64_t>(in.bytes() - bytes(ranges.send_begin, rank_)));
    check_rows(ranges, call);
    Requests& r = first_;
    r.clear();
    for (const int other : others())
      receive(r, out.raw() + ranges.recv_begin[other] * width, bytes(ranges.recv_begin, other), other,
              kParts);
    for (const int other : others())
      send_to(r, in.raw() + ranges.send_begin[other] * width, bytes(ranges.send_begin, other), other, kParts);
    std::memcpy(out.raw() + ranges.recv_begin[rank_] * width, in.raw() + ranges.send_begin[rank_] * width,
                bytes(ranges.send_begin, rank_));
    wait(r, call.what());
  }

  void broadcast(const Tensor& data, int root) override {
    check_rank(root, "[broadcast]");
    const Call call(*this, Collective::kBroadcast, data.bytes(),
                    [&] { return str(size_of(data), " from rank ", root); });
    add_count(Collective::kBroadcast, comm_detail::broadcast_bytes(data, root, rank_, size()));
    Requests& r = first_;
    r.clear();
    if (comm_detail::is_short(data)) {
      if (rank_ == root)
        for (const int other : others()) send_to(r, data.raw(), data.bytes(), other, kParts);
      else
        receive(r, data.raw(), data.bytes(), root, kParts);
      return wait(r, call.what());
    }
    const size_t width = dtype_size(data.dtype());
    auto begin = [&](int rank) { return data.raw() + part_begin(data.numel(), rank, size()) * width; };
    auto bytes = [&](int rank) { return static_cast<size_t>(begin(rank + 1) - begin(rank)); };
    if (rank_ == root) {
      for (const int other : others()) send_to(r, begin(other), bytes(other), other, kParts);
    } else {
      receive(r, begin(rank_), bytes(rank_), root, kParts);
      wait(r, call.what());
      r.clear();
    }
    // The root has all of it: it passes on its own part and takes none.
    for (const int other : others()) {
      if (other != root) send_to(r, begin(rank_), bytes(rank_), other, kResults);
      if (rank_ != root) receive(r, begin(other), bytes(other), other, kResults);
    }
    wait(r, call.what());
  }

  void send(const Tensor& data, int to) override {
    check_rank(to, "[send]");
    const Call call(*this, Collective::kSend, data.bytes());
    add_count(Collective::kSend, to == rank_ ? 0 : static_cast<int64_t>(data.bytes()));
    while (!sent_.empty() && is_done(sent_.front().requests)) sent_.pop_front();
    Message m;
    m.header = {static_cast<int64_t>(data.dtype()), data.numel()};
    m.bytes = std::make_unique_for_overwrite<std::byte[]>(data.bytes() + sizeof(Header));
    std::memcpy(m.bytes.get(), &m.header, sizeof(Header));
    std::memcpy(m.bytes.get() + sizeof(Header), data.raw(), data.bytes());
    if (to == rank_) return own_.push_back(std::move(m));
    send_to(m.requests, m.bytes.get(), sizeof(Header), to, kMessages);
    send_to(m.requests, m.bytes.get() + sizeof(Header), data.bytes(), to, kMessages);
    sent_.push_back(std::move(m));
  }

  void recv(const Tensor& data, int from) override {
    check_rank(from, "[recv]");
    const Call call(*this, Collective::kRecv, data.bytes());
    add_count(Collective::kRecv, 0);
    auto check = [&](const Header& h) {
      if (h.dtype != static_cast<int64_t>(data.dtype()) || h.numel != data.numel())
        differ(str(watch_->name(ranks_[from]), " sends ", h.numel, " ", static_cast<DType>(h.dtype), ", ",
                   watch_->name(state_->rank), " receives ", size_of(data)));
    };
    if (from == rank_) {
      RK_CHECK(!own_.empty(), "[recv] nothing was sent");
      const Message m = std::move(own_.front());
      own_.pop_front();
      check(m.header);
      std::memcpy(data.raw(), m.bytes.get() + sizeof(Header), data.bytes());
      return;
    }
    const std::string what = str("recv of ", size_of(data));
    Requests& r = first_;
    r.clear();
    Header header{};
    receive(r, reinterpret_cast<std::byte*>(&header), sizeof header, from, kMessages);
    wait(r, what);
    check(header);
    r.clear();
    receive(r, data.raw(), data.bytes(), from, kMessages);
    wait(r, what);
  }

  void barrier() override {
    const Call call(*this, Collective::kBarrier, 0);
    add_count(Collective::kBarrier, 0);
    tokens_.assign(static_cast<size_t>(size()), std::byte{0});
    Requests& r = first_;
    r.clear();
    for (const int other : others()) receive(r, &tokens_[other], 1, other, kParts);
    for (const int other : others()) send_to(r, &tokens_[rank_], 1, other, kParts);
    wait(r, call.what());
  }

  std::unique_ptr<Communicator> split(int colour, int key) override {
    const Call call(*this, Collective::kSplit, 0);
    add_count(Collective::kSplit, 0);
    // An id that no member has used: pairs of ranks tell communicators apart by it.
    struct Choice {
      int colour, key, id;
    };
    std::vector<Choice> all(static_cast<size_t>(size()));
    all[rank_] = {colour, key, state_->next_id.load()};
    Requests& r = first_;
    r.clear();
    for (const int other : others())
      receive(r, reinterpret_cast<std::byte*>(&all[other]), sizeof(Choice), other, kParts);
    for (const int other : others())
      send_to(r, reinterpret_cast<std::byte*>(&all[rank_]), sizeof(Choice), other, kParts);
    wait(r, call.what());
    std::vector<int> members;
    int id = 0;
    for (int rank = 0; rank < size(); ++rank) {
      id = std::max(id, all[rank].id);
      if (all[rank].colour == colour) members.push_back(rank);
    }
    state_->next_id = id + 1;
    if (colour < 0) return nullptr;
    std::stable_sort(members.begin(), members.end(), [&](int a, int b) { return all[a].key < all[b].key; });
    for (int& member : members) member = ranks_[member];
    return std::make_unique<MpiCommunicator>(state_, watch_, id, std::move(members));
  }

  void abort(std::string_view why) override { watch_->abort(ExitCode::kPeerFailed, why); }

 private:
  // Tags of a communicator.
  enum Tag { kParts, kResults, kMessages, kCalls, kTags };
  enum class Then { kNothing, kGather };
  struct Header {
    int64_t dtype, numel;
  };
  struct Message {
    Header header;
    std::unique_ptr<std::byte[]> bytes;  // header and data
    Requests requests;
  };

  // A collective under way. Its description is made where it is needed.
  class Call {
   public:
    Call(MpiCommunicator& comm, Collective kind, size_t bytes)
        : Call(comm, kind, bytes, [] { return std::string(); }) {}
    template <class Describe>
    Call(MpiCommunicator& comm, Collective kind, size_t bytes, Describe describe)
        : comm_(comm), kind_(kind), bytes_(bytes) {
      comm.watch_->check();
      comm.watch_->begin_collective(kind, bytes);
      const bool one_sided = kind == Collective::kSend || kind == Collective::kRecv;
      if (comm.watch_->options().verify && !one_sided) {
        const std::string more = describe();
        comm.compare(more.empty() ? std::string(name_of(kind)) : str(name_of(kind), " ", more));
      }
    }
    ~Call() { comm_.watch_->end_collective(); }
    Call(const Call&) = delete;
    std::string what() const { return str(name_of(kind_), " of ", bytes_, " bytes"); }

   private:
    MpiCommunicator& comm_;
    Collective kind_;
    size_t bytes_;
  };

  static std::string size_of(const Tensor& t) { return str(t.numel(), " ", t.dtype()); }
  static std::string described(Reduce op, const Tensor& t) { return str("(", op, ") of ", size_of(t)); }
  void check_rank(int rank, std::string_view who) const {
    RK_CHECK(rank >= 0 && rank < size(), who, " rank ", rank, " of ", size());
  }
  // From the next rank on: not all to rank 0 first.
  std::vector<int> others() const {
    std::vector<int> list;
    for (int i = 1; i < size(); ++i) list.push_back((rank_ + i) % size());
    return list;
  }
  int tag(Tag kind) const { return id_ * kTags + kind; }

  [[noreturn]] void differ(const std::string& what) const {
    watch_->abort(ExitCode::kInternal, what);
    fail(ExitCode::kInternal, kMismatchId, what);
  }

  // Nothing is sent or awaited where there is nothing: both sides know.
  void send_to(Requests& r, const std::byte* data, size_t bytes, int to, Tag kind) const {
    for (size_t at = 0; at < bytes; at += kMaxMessage) {
      const int n = static_cast<int>(std::min(kMaxMessage, bytes - at));
      r.peer.push_back(to);
      r.expected.push_back(Requests::kSent);
      r.handles.push_back(MPI_REQUEST_NULL);
      RK_MPI(MPI_Isend(data + at, n, MPI_BYTE, ranks_[to], tag(kind), state_->comm, &r.handles.back()));
    }
  }
  void receive(Requests& r, std::byte* data, size_t bytes, int from, Tag kind) const {
    for (size_t at = 0; at < bytes; at += kMaxMessage) {
      const int n = static_cast<int>(std::min(kMaxMessage, bytes - at));
      r.peer.push_back(from);
      r.expected.push_back(n);
      r.handles.push_back(MPI_REQUEST_NULL);
      RK_MPI(MPI_Irecv(data + at, n, MPI_BYTE, ranks_[from], tag(kind), state_->comm, &r.handles.back()));
    }
  }

  bool is_done(Requests& r) const {
    int done = 0;
    RK_MPI(MPI_Testall(static_cast<int>(r.handles.size()), r.handles.data(), &done, MPI_STATUSES_IGNORE));
    return done != 0;
  }

  // Until all messages have come and gone.
  void wait(Requests& r, std::string_view what) {
    switch (poll(r, what)) {
      case Ending::kDone:
        return;
      case Ending::kAlarm:
        leave();
        watch_->check();
        return;
      case Ending::kTimeout:
        timed_out(r, what);
    }
  }

  enum class Ending { kDone, kAlarm, kTimeout };
  Ending poll(Requests& r, std::string_view what) {
    struct Inside {
      explicit Inside(std::atomic<int>& n) : count(n) { ++count; }
      ~Inside() { --count; }
      std::atomic<int>& count;
    };
    const Inside inside(state_->inside);
    const int total = static_cast<int>(r.handles.size());
    indices_.resize(r.handles.size());
    statuses_.resize(r.handles.size());
    Pause pause;
    for (int left = total; left > 0;) {
      int some = 0;
      const int error = MPI_Testsome(total, r.handles.data(), &some, indices_.data(), statuses_.data());
      if (error != MPI_SUCCESS && error != MPI_ERR_IN_STATUS) call_failed("MPI_Testsome", error);
      if (some > 0) {
        for (int i = 0; i < some; ++i) check_arrived(r, i, error, what);
        left -= some;
        pause.reset();
        continue;
      }
      if (watch_->raised()) return Ending::kAlarm;
      if (pause.waited() > watch_->options().timeout) return Ending::kTimeout;
      pause();
    }
    return Ending::kDone;
  }

  void check_arrived(const Requests& r, int i, int error, std::string_view what) const {
    const MPI_Status& status = statuses_[static_cast<size_t>(i)];
    const auto k = static_cast<size_t>(indices_[static_cast<size_t>(i)]);
    const int code = error == MPI_ERR_IN_STATUS ? status.MPI_ERROR : MPI_SUCCESS;
    int error_class = MPI_SUCCESS, bytes = 0;
    MPI_Error_class(code, &error_class);
    if (r.expected[k] != Requests::kSent && error_class == MPI_SUCCESS)
      MPI_Get_count(&status, MPI_BYTE, &bytes);
    if (error_class == MPI_ERR_TRUNCATE ||
        (r.expected[k] != Requests::kSent && error_class == MPI_SUCCESS && bytes != r.expected[k]))
      differ(str(watch_->name(state_->rank), " in ", what, ": found ",
                 error_class == MPI_ERR_TRUNCATE ? "more" : str(bytes), " bytes from ",
                 watch_->name(ranks_[r.peer[k]]), ", expected ", r.expected[k],
                 "; ROOKERY_COMM_VERIFY=1 tells what each of them calls"));
    if (error_class != MPI_SUCCESS) call_failed("MPI_Testsome", code);
  }

  // The other threads leave MPI too: what arrives later must not be written into memory that is let go.
  void leave() const {
    const auto until = Clock::now() + std::chrono::seconds(1);
    while (state_->inside > 0 && Clock::now() < until) std::this_thread::sleep_for(milliseconds(1));
  }

  [[noreturn]] void timed_out(const Requests& r, std::string_view what) const {
    std::vector<int> missing;
    for (const bool sends : {false, true}) {
      if (!missing.empty()) break;  // who sent nothing is late; who took nothing may wait for the same
      for (size_t k = 0; k < r.handles.size(); ++k)
        if (r.handles[k] != MPI_REQUEST_NULL && (r.expected[k] == Requests::kSent) == sends)
          missing.push_back(ranks_[r.peer[k]]);
    }
    std::sort(missing.begin(), missing.end());
    missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
    std::string names;
    for (const int m : missing) names += (names.empty() ? "" : ", ") + watch_->name(m);
    // The lifeline may know that one of them is stopped or gone.
    const auto until = Clock::now() + watch_->grace();
    while (!watch_->raised() && Clock::now() < until) std::this_thread::sleep_for(milliseconds(5));
    watch_->check();
    const std::string why =
        str(watch_->name(state_->rank), " waits in ", what, " for ", names, "; nothing came within ",
            watch_->options().timeout.count(), " ms", watch_->describe_ranks());
    watch_->abort(ExitCode::kHang, why);
    leave();
    fail(ExitCode::kHang, kTimeoutId, why);
  }

  // Every rank tells what it calls.
  void compare(const std::string& what) {
    constexpr size_t kText = 128;
    std::vector<std::array<char, kText>> texts(static_cast<size_t>(size()));
    for (auto& text : texts) text.fill(0);
    what.copy(texts[rank_].data(), kText - 1);
    Requests& r = first_;
    r.clear();
    auto bytes = [&](int rank) { return reinterpret_cast<std::byte*>(texts[rank].data()); };
    for (const int other : others()) receive(r, bytes(other), kText, other, kCalls);
    for (const int other : others()) send_to(r, bytes(rank_), kText, other, kCalls);
    wait(r, what);
    for (int rank = 0; rank < size(); ++rank)
      if (texts[rank] != texts[rank_]) {
        const int low = std::min(rank, rank_), high = std::max(rank, rank_);
        differ(str(watch_->name(ranks_[low]), " calls ", texts[low].data(), ", ", watch_->name(ranks_[high]),
                   " calls ", texts[high].data()));
      }
  }

  // The rows that ranks send each other must be those that are expected, else some would never arrive.
  void check_rows(const comm_detail::RowRanges& ranges, const Call& call) {
    std::vector<int64_t> coming(static_cast<size_t>(size())), going(coming);
    for (int r = 0; r < size(); ++r) going[r] = ranges.send_begin[r + 1] - ranges.send_begin[r];
    coming[rank_] = going[rank_];
    Requests& r = first_;
    r.clear();
    for (const int other : others())
      receive(r, reinterpret_cast<std::byte*>(&coming[other]), sizeof(int64_t), other, kResults);
    for (const int other : others())
      send_to(r, reinterpret_cast<const std::byte*>(&going[other]), sizeof(int64_t), other, kResults);
    wait(r, call.what());
    for (int from = 0; from < size(); ++from) {
      const int64_t expected = ranges.recv_begin[from + 1] - ranges.recv_begin[from];
      if (coming[from] != expected)
        differ(str(watch_->name(state_->rank), " expects ", expected, " rows from ",
                   watch_->name(ranks_[from]), ", which sends ", coming[from]));
    }
  }

  std::byte* scratch(size_t bytes) {
    if (bytes > scratch_bytes_) {
      scratch_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
      scratch_bytes_ = bytes;
    }
    return scratch_.get();
  }

  template <class T>
  void exchange_and_reduce(const Tensor& data, Reduce op) {
    const size_t bytes = data.bytes();
    std::byte* all = scratch(bytes * static_cast<size_t>(size()));
    std::memcpy(all + rank_ * bytes, data.raw(), bytes);
    Requests& r = first_;
    r.clear();
    for (const int other : others()) receive(r, all + other * bytes, bytes, other, kParts);
    for (const int other : others()) send_to(r, all + rank_ * bytes, bytes, other, kParts);
    wait(r, "all_reduce");
    std::vector<const T*> in;
    for (int rank = 0; rank < size(); ++rank) in.push_back(reinterpret_cast<const T*>(all + rank * bytes));
    comm_detail::reduce_range<T>(in, data.data<T>(), 0, data.numel(), op);
  }

  // in: n elements, of which rank r reduces part r; out[i] is the reduced in[i] for this rank's part, and
  // with kGather, where out is in, for all. In rounds of one chunk of each part: while one is summed, the
  // next is on its way.
  template <class T>
  void reduce_parts(Reduce op, const T* in, T* out, int64_t n, Then then) {
    constexpr int64_t kChunk = kChunkBytes / static_cast<int64_t>(sizeof(T));
    struct Range {
      int64_t begin, size;
    };
    auto chunk = [&](int rank, int64_t round) {
      const int64_t begin =
          std::min(part_begin(n, rank, size()) + round * kChunk, part_begin(n, rank + 1, size()));
      return Range{begin, std::min(kChunk, part_begin(n, rank + 1, size()) - begin)};
    };
    const std::vector<int> peers = others();
    const int64_t longest = (n + size() - 1) / size(), rounds = (longest + kChunk - 1) / kChunk;
    T* const received = reinterpret_cast<T*>(scratch(2 * peers.size() * kChunk * sizeof(T)));
    auto place = [&](int64_t round, size_t i) {
      return received + ((round % 2) * static_cast<int64_t>(peers.size()) + static_cast<int64_t>(i)) * kChunk;
    };
    Requests arriving[2], leaving[2];
    auto begin_round = [&](int64_t round) {
      Requests &in_flight = arriving[round % 2], &r = leaving[round % 2];
      in_flight.clear();
      r.clear();
      const Range mine = chunk(rank_, round);
      for (size_t i = 0; i < peers.size(); ++i)
        receive(in_flight, reinterpret_cast<std::byte*>(place(round, i)), mine.size * sizeof(T), peers[i],
                kParts);
      for (const int peer : peers) {
        const Range theirs = chunk(peer, round);
        send_to(r, reinterpret_cast<const std::byte*>(in + theirs.begin), theirs.size * sizeof(T), peer,
                kParts);
      }
    };
    Requests& results = second_;
    results.clear();
    const std::string_view what = then == Then::kGather ? "all_reduce" : "reduce_scatter";
    for (int64_t round = 0; round < std::min<int64_t>(2, rounds); ++round) begin_round(round);
    std::vector<const T*> all(static_cast<size_t>(size()));
    for (int64_t round = 0; round < rounds; ++round) {
      wait(arriving[round % 2], what);
      const Range mine = chunk(rank_, round);
      all[rank_] = in + mine.begin;
      for (size_t i = 0; i < peers.size(); ++i) all[peers[i]] = place(round, i);
      comm_detail::reduce_range<T>(all, out + mine.begin, 0, mine.size, op);
      if (then == Then::kGather)
        for (const int peer : peers)
          send_to(results, reinterpret_cast<const std::byte*>(out + mine.begin), mine.size * sizeof(T), peer,
                  kResults);
      wait(leaving[round % 2], what);  // before results come to where it lies
      if (then == Then::kGather)
        for (const int peer : peers) {
          const Range theirs = chunk(peer, round);
          receive(results, reinterpret_cast<std::byte*>(out + theirs.begin), theirs.size * sizeof(T), peer,
                  kResults);
        }
      if (round + 2 < rounds) begin_round(round + 2);
    }
    wait(results, what);
  }

  std::shared_ptr<Session::State> state_;
  std::shared_ptr<Watch> watch_;
  int id_, rank_ = 0, exceptions_ = std::uncaught_exceptions();
  std::vector<int> ranks_;  // of the world
  std::deque<Message> sent_, own_;
  Requests first_, second_;
  std::vector<int> indices_;
  std::vector<MPI_Status> statuses_;
  std::vector<std::byte> tokens_;
  std::unique_ptr<std::byte[]> scratch_;
  size_t scratch_bytes_ = 0;
};

}  // namespace

bool built() { return true; }

std::string version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string_view all(text, static_cast<size_t>(length));
  return std::string(all.substr(0, all.find_first_of(",\n")));
}

Session::Session() : state_(std::make_shared<State>()) {
  int provided = MPI_THREAD_SINGLE;
  RK_MPI(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided));
  if (provided != MPI_THREAD_MULTIPLE)
    fail(ExitCode::kUnavailable, "COMM-05", version(), ": found thread support of level ", provided,
         ", expected MPI_THREAD_MULTIPLE; use a build of MPI that has it");
  RK_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &state_->comm));
  RK_MPI(MPI_Comm_set_errhandler(state_->comm, MPI_ERRORS_RETURN));
  RK_MPI(MPI_Comm_rank(state_->comm, &state_->rank));
  RK_MPI(MPI_Comm_size(state_->comm, &state_->size));
  MPI_Comm local = MPI_COMM_NULL;
  RK_MPI(MPI_Comm_split_type(state_->comm, MPI_COMM_TYPE_SHARED, state_->rank, MPI_INFO_NULL, &local));
  RK_MPI(MPI_Comm_rank(local, &state_->local_rank));
  RK_MPI(MPI_Comm_size(local, &state_->local_size));
  RK_MPI(MPI_Comm_free(&local));
  int* highest = nullptr;
  int found = 0;
  RK_MPI(MPI_Comm_get_attr(state_->comm, MPI_TAG_UB, &highest, &found));
  state_->highest_tag = found ? *highest : 32767;  // what the standard promises
}

Session::~Session() = default;

int Session::rank() const { return state_->rank; }
int Session::size() const { return state_->size; }
int Session::local_rank() const { return state_->local_rank; }
int Session::local_size() const { return state_->local_size; }

std::unique_ptr<Communicator> Session::communicator(std::shared_ptr<Watch> watch) {
  std::vector<int> all;
  for (int r = 0; r < size(); ++r) all.push_back(r);
  return std::make_unique<MpiCommunicator>(state_, std::move(watch), 0, std::move(all));
}

void Session::native(Collective kind, const Tensor& in, const Tensor& out) const {
  const int n = static_cast<int>(std::min(in.numel(), out.numel()));
  if (kind == Collective::kAllReduce)
    RK_MPI(MPI_Allreduce(MPI_IN_PLACE, in.raw(), static_cast<int>(in.numel()), MPI_FLOAT, MPI_SUM,
                         state_->comm));
  if (kind == Collective::kReduceScatter)
    RK_MPI(MPI_Reduce_scatter_block(in.raw(), out.raw(), n, MPI_FLOAT, MPI_SUM, state_->comm));
  if (kind == Collective::kAllGather)
    RK_MPI(MPI_Allgather(in.raw(), n, MPI_FLOAT, out.raw(), n, MPI_FLOAT, state_->comm));
}

void Session::finish() {
  if (state_->finished) return;
  state_->finished = true;
  RK_MPI(MPI_Comm_free(&state_->comm));
  RK_MPI(MPI_Finalize());
}

}  // namespace rookery::mpi
