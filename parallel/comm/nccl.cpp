// nccl.cpp: collectives of GPUs (parallel/comm/nccl.h). No call blocks: NCCL is told so, and what it has
// begun is looked at by one thread of the process, which alone ends it.
#include "parallel/comm/nccl.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <nccl.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <list>
#include <optional>
#include <thread>

#include "kernels/cuda/stream.h"

namespace rookery::nccl {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Two hundred megabytes: loaded by who has several GPUs.
#define RK_NCCL_FUNCTIONS(F) \
  F(ncclAllGather)           \
  F(ncclAllReduce)           \
  F(ncclBroadcast)           \
  F(ncclCommAbort)           \
  F(ncclCommDestroy)         \
  F(ncclCommFinalize)        \
  F(ncclCommGetAsyncError)   \
  F(ncclCommInitRankConfig)  \
  F(ncclCommSplit)           \
  F(ncclGetErrorString)      \
  F(ncclGetLastError)        \
  F(ncclGetUniqueId)         \
  F(ncclGetVersion)          \
  F(ncclGroupEnd)            \
  F(ncclGroupStart)          \
  F(ncclRecv)                \
  F(ncclReduceScatter)       \
  F(ncclSend)

struct Library {
#define RK_NCCL_MEMBER(name) decltype(&::name) name = nullptr;
  RK_NCCL_FUNCTIONS(RK_NCCL_MEMBER)
#undef RK_NCCL_MEMBER
};

const Library& lib() {
  static const Library library = [] {
    const std::string name = "libnccl.so.2";
    void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    const std::string first = handle ? "" : dlerror();
    if (handle == nullptr)
      handle = dlopen(str(ROOKERY_NCCL_FOLDER, "/", name).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr)
      fail(ExitCode::kUnavailable, "COMM-09", name, ": found ", first,
           ", expected the library of the CUDA toolkit; install it, or name its folder in LD_LIBRARY_PATH");
    Library found;
#define RK_NCCL_LOAD(function)                                                                             \
  found.function = reinterpret_cast<decltype(found.function)>(dlsym(handle, #function));                   \
  if (found.function == nullptr)                                                                           \
    fail(ExitCode::kUnavailable, "COMM-09", name, ": has no " #function ", expected version ", NCCL_MAJOR, \
         ".", NCCL_MINOR, " or later");
    RK_NCCL_FUNCTIONS(RK_NCCL_LOAD)
#undef RK_NCCL_LOAD
    return found;
  }();
  return library;
}

std::string text_of(ncclComm_t comm, ncclResult_t result) {
  const char* last = lib().ncclGetLastError(comm);
  return str(lib().ncclGetErrorString(result), last && *last ? str(" (", last, ")") : "");
}

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return ncclFloat64;
    case DType::kF32:
      return ncclFloat32;
    case DType::kBF16:
      return ncclBfloat16;
    case DType::kI64:
      return ncclInt64;
    case DType::kI32:
      return ncclInt32;
    case DType::kU8:
      return ncclUint8;
  }
  return ncclUint8;
}

ncclRedOp_t op_of(Reduce op) { return op == Reduce::kSum ? ncclSum : op == Reduce::kMax ? ncclMax : ncclMin; }

ncclConfig_t config() {
  ncclConfig_t c = NCCL_CONFIG_INITIALIZER;
  c.blocking = 0;
  c.splitShare = 0;  // communicators of different streams must not wait for each other
  return c;
}

bool capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  RK_CUDA(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

// All NCCL communicators of the process, and the thread that looks after them.
class Session {
 public:
  Session(Device& of, std::shared_ptr<Watch> with) : device(of), watch(std::move(with)) {
    thread_ = std::thread([this] { look_after(); });
  }
  ~Session() {
    {
      std::lock_guard lock(mutex_);
      ending_ = true;
      wake_.notify_all();
    }
    thread_.join();
  }
  Session(const Session&) = delete;

  // One communicator of NCCL and what it was asked for last.
  struct Line {
    ncclComm_t comm = nullptr;
    struct Asked {
      cuda::Event done;
      std::string what;
      Clock::time_point since;
    };
    std::deque<Asked> asked;
    bool aborted = false;
  };

  // make(&comm) begins one; returns when it is ready on this rank. It stays null for a rank that is not in
  // it.
  template <class Make>
  Line* open(std::string_view what, Make&& make) {
    Line* line = nullptr;
    {
      std::lock_guard lock(mutex_);
      line = &lines_.emplace_back();
      const ncclResult_t result = make(&line->comm);
      if (result != ncclSuccess && result != ncclInProgress) failed(what, nullptr, result);
    }
    if (line->comm) await(*line, what);
    return line;
  }

  // A part of `whole`, which is busy meanwhile.
  Line* split(Line& whole, int colour, int key) {
    ncclConfig_t c = config();
    Line* part = open("ncclCommSplit", [&](ncclComm_t* made) {
      return lib().ncclCommSplit(whole.comm, colour < 0 ? NCCL_SPLIT_NOCOLOR : colour, key, made, &c);
    });
    await(whole, "ncclCommSplit");
    return part;
  }

  // Nobody is waited for after an error.
  void close(Line* line, bool in_haste) {
    if (line->comm && !in_haste && !watch->raised()) {
      try {
        call(*line, "ncclCommFinalize", [&] { return lib().ncclCommFinalize(line->comm); });
      } catch (const Error&) {
        in_haste = true;
      }
    }
    std::lock_guard lock(mutex_);
    if (line->comm && !line->aborted) {
      if (in_haste || watch->raised())
        lib().ncclCommAbort(line->comm);
      else
        lib().ncclCommDestroy(line->comm);
    }
    lines_.remove_if([&](const Line& l) { return &l == line; });
  }

  template <class F>
  void call(Line& line, std::string_view what, F&& body) {
    {
      std::lock_guard lock(mutex_);
      watch->check();
      const ncclResult_t result = body();
      if (result != ncclSuccess && result != ncclInProgress) failed(what, line.comm, result);
    }
    await(line, what);
  }

  // Notes what was put into a stream, so that somebody misses its end.
  void note(Line& line, std::string what, cudaStream_t stream) {
    if (capturing(stream)) return;
    Line::Asked asked{cuda::Event(), std::move(what), Clock::now()};
    RK_CUDA(cudaEventRecord(asked.done.native(), stream));
    std::lock_guard lock(mutex_);
    line.asked.push_back(std::move(asked));
  }

  Device& device;
  const std::shared_ptr<Watch> watch;

 private:
  [[noreturn]] void failed(std::string_view what, ncclComm_t comm, ncclResult_t result) {
    const std::string why = str(what, ": ", text_of(comm, result));
    watch->abort(ExitCode::kPeerFailed, why);
    fail(ExitCode::kPeerFailed, kPeerFailedId, why);
  }

  // Until NCCL has done on the host what it was asked for.
  void await(Line& line, std::string_view what) {
    const auto until = Clock::now() + watch->options().timeout;
    for (;;) {
      {
        std::lock_guard lock(mutex_);
        watch->check();
        ncclResult_t state = ncclSuccess;
        const ncclResult_t asked = lib().ncclCommGetAsyncError(line.comm, &state);
        if (asked != ncclSuccess) failed(what, line.comm, asked);
        if (state == ncclSuccess) return;
        if (state != ncclInProgress) failed(what, line.comm, state);
      }
      if (Clock::now() > until) late(str(what, " on the host"));
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  [[noreturn]] void late(const std::string& what) {
    const std::string why = late_text(what);
    watch->abort(ExitCode::kHang, why);
    fail(ExitCode::kHang, kTimeoutId, why);
  }
  std::string late_text(const std::string& what) const {
    return str(watch->name(watch->rank()), " waits in ", what, "; it did not end within ",
               watch->options().timeout.count(), " ms", watch->describe_ranks());
  }

  void look_after() {
    std::unique_lock lock(mutex_);
    while (!ending_) {
      wake_.wait_for(lock, milliseconds(50));
      std::string wrong, is_late;
      for (Line& line : lines_) {
        if (!line.comm || line.aborted) continue;
        ncclResult_t state = ncclSuccess;
        if (lib().ncclCommGetAsyncError(line.comm, &state) == ncclSuccess && state != ncclSuccess &&
            state != ncclInProgress)
          wrong = str("NCCL: ", text_of(line.comm, state));
        while (!line.asked.empty() && cudaEventQuery(line.asked.front().done.native()) == cudaSuccess) {
          line.asked.pop_front();
          if (!line.asked.empty()) line.asked.front().since = Clock::now();  // its turn has come
        }
        if (!line.asked.empty() && Clock::now() - line.asked.front().since > watch->options().timeout)
          is_late = line.asked.front().what;
      }
      if (!wrong.empty() || !is_late.empty()) {
        lock.unlock();
        if (wrong.empty())
          watch->abort(ExitCode::kHang, late_text(is_late));
        else
          watch->abort(ExitCode::kPeerFailed, wrong);
        lock.lock();
      }
      if (watch->raised())
        for (Line& line : lines_)
          if (line.comm && !line.aborted) {
            line.aborted = true;
            lib().ncclCommAbort(line.comm);  // its kernels end, and so does who waits for the stream
          }
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::list<Line> lines_;
  bool ending_ = false;
  std::thread thread_;
};

class NcclCommunicator : public Communicator {
 public:
  using Line = Session::Line;
  // Tensors of send() go to higher ranks by one line of their own and to lower ones by another: neither waits
  // for a receive of this rank that stands behind it.
  NcclCommunicator(std::shared_ptr<Session> session, Line* line, int rank, int size)
      : session_(std::move(session)), line_(line), rank_(rank), size_(size) {
    if (size_ == 1) return;
    for (Lane* lane : {&up_, &down_}) {
      lane->line = session_->split(*line_, 0, rank_);
      lane->stream.emplace();
    }
  }
  ~NcclCommunicator() override {
    const bool in_haste = std::uncaught_exceptions() > exceptions_;
    for (Lane* lane : {&up_, &down_})
      if (lane->line) session_->close(lane->line, in_haste);
    session_->close(line_, in_haste);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_reduce(const Tensor& data, Reduce op) override {
    add_count(Collective::kAllReduce, comm_detail::all_reduce_bytes(data, rank_, size_));
    run(Collective::kAllReduce, data, [&](cudaStream_t stream) {
      return lib().ncclAllReduce(data.raw(), data.raw(), count_of(data), type_of(data.dtype()), op_of(op),
                                 line_->comm, stream);
    });
  }

  void reduce_scatter(const Tensor& in, const Tensor& out, Reduce op) override {
    comm_detail::check_slices(in, out, size_, "[reduce_scatter] in");
    add_count(Collective::kReduceScatter, static_cast<int64_t>(out.bytes()) * (size_ - 1));
    run(Collective::kReduceScatter, in, [&](cudaStream_t stream) {
      return lib().ncclReduceScatter(in.raw(), out.raw(), count_of(out), type_of(in.dtype()), op_of(op),
                                     line_->comm, stream);
    });
  }

  void all_gather(const Tensor& in, const Tensor& out) override {
    comm_detail::check_slices(out, in, size_, "[all_gather] out");
    add_count(Collective::kAllGather, static_cast<int64_t>(in.bytes()) * (size_ - 1));
    run(Collective::kAllGather, in, [&](cudaStream_t stream) {
      return lib().ncclAllGather(in.raw(), out.raw(), count_of(in), type_of(in.dtype()), line_->comm, stream);
    });
  }

  void all_to_all(const Tensor& in, const Tensor& out, const RowCounts& rows) override {
    const auto ranges = comm_detail::row_ranges(in, out, rows, size_);
    const size_t width = comm_detail::row_bytes(in);
    RK_CHECK(comm_detail::row_bytes(out) == width, "[all_to_all] rows of ", in.shape(), " and ", out.shape());
    const auto& s = ranges.send_begin;
    const auto& r = ranges.recv_begin;
    add_count(Collective::kAllToAll, (in.dim(0) - (s[rank_ + 1] - s[rank_])) * static_cast<int64_t>(width));
    run(Collective::kAllToAll, in, [&](cudaStream_t stream) {
      lib().ncclGroupStart();
      for (int other = 0; other < size_; ++other) {
        if (const int64_t n = s[other + 1] - s[other]; n > 0)
          lib().ncclSend(in.raw() + s[other] * width, n * width, ncclUint8, other, line_->comm, stream);
        if (const int64_t n = r[other + 1] - r[other]; n > 0)
          lib().ncclRecv(out.raw() + r[other] * width, n * width, ncclUint8, other, line_->comm, stream);
      }
      return lib().ncclGroupEnd();  // tells what went wrong in it, too
    });
  }

  void broadcast(const Tensor& data, int root) override {
    check_rank(root, "[broadcast]");
    add_count(Collective::kBroadcast, comm_detail::broadcast_bytes(data, root, rank_, size_));
    run(Collective::kBroadcast, data, [&](cudaStream_t stream) {
      return lib().ncclBroadcast(data.raw(), data.raw(), data.bytes(), ncclUint8, root, line_->comm, stream);
    });
  }

  void send(const Tensor& data, int to) override {
    check_rank(to, "[send]");
    add_count(Collective::kSend, to == rank_ ? 0 : static_cast<int64_t>(data.bytes()));
    const Step step(*session_, Collective::kSend, data);
    RK_CHECK(!capturing(step.stream), "[send] cannot be captured");
    if (to == rank_) {
      own_.push_back(empty_like(data));
      return copy(data, own_.back());
    }
    Lane& lane = to > rank_ ? up_ : down_;
    Parcel& parcel = lane.parcel(data.bytes());
    RK_CUDA(cudaMemcpyAsync(parcel.memory, data.raw(), data.bytes(), cudaMemcpyDeviceToDevice, step.stream));
    const cuda::Event copied;
    RK_CUDA(cudaEventRecord(copied.native(), step.stream));
    lane.stream->wait(copied);
    session_->call(*lane.line, "ncclSend", [&] {
      return lib().ncclSend(parcel.memory, data.bytes(), ncclUint8, to, lane.line->comm,
                            lane.stream->native());
    });
    lane.stream->record(parcel.sent);
    session_->note(*lane.line, step.what, lane.stream->native());
  }

  void recv(const Tensor& data, int from) override {
    check_rank(from, "[recv]");
    add_count(Collective::kRecv, 0);
    const Step step(*session_, Collective::kRecv, data);
    if (from == rank_) {
      RK_CHECK(!own_.empty(), "[recv] nothing was sent");
      copy(own_.front(), data);
      return own_.pop_front();
    }
    Lane& lane = from < rank_ ? up_ : down_;
    session_->call(*lane.line, "ncclRecv", [&] {
      return lib().ncclRecv(data.raw(), data.bytes(), ncclUint8, from, lane.line->comm, step.stream);
    });
    session_->note(*lane.line, step.what, step.stream);
  }

  // The host waits, too.
  void barrier() override {
    add_count(Collective::kBarrier, 0);
    if (!token_.defined()) token_ = zeros({1}, DType::kI32, session_->device);
    run(Collective::kBarrier, token_, [&](cudaStream_t stream) {
      return lib().ncclAllReduce(token_.raw(), token_.raw(), 1, ncclInt32, ncclMax, line_->comm, stream);
    });
    const cuda::Event all;
    const auto stream = static_cast<cudaStream_t>(session_->device.native_stream());
    RK_CUDA(cudaEventRecord(all.native(), stream));
    while (cudaEventQuery(all.native()) == cudaErrorNotReady) {
      session_->watch->check();
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    session_->watch->check();
  }

  std::unique_ptr<Communicator> split(int colour, int key) override {
    add_count(Collective::kSplit, 0);
    // Where this rank comes to stand: NCCL orders by key and rank as we do.
    Device& device = session_->device;
    const Tensor mine = tensor_from(std::span<const int32_t>(std::array<int32_t, 2>{colour, key}), {2},
                                    DType::kI32, device),
                 all = zeros({size_, 2}, DType::kI32, device);
    all_gather(mine, all);
    const std::vector<double> choices = to_doubles(all);
    session_->watch->check();
    int place = 0, members = 0;
    for (int r = 0; r < size_; ++r) {
      if (choices[static_cast<size_t>(2 * r)] != colour) continue;
      ++members;
      const double other = choices[static_cast<size_t>(2 * r + 1)];
      place += other < key || (other == key && r < rank_);
    }
    Line* made = session_->split(*line_, colour, key);
    if (colour >= 0) return std::make_unique<NcclCommunicator>(session_, made, place, members);
    session_->close(made, false);
    return nullptr;
  }

  void abort(std::string_view why) override { session_->watch->abort(ExitCode::kPeerFailed, why); }

 private:
  // A copy of what is sent, until it has gone.
  struct Parcel {
    void* memory = nullptr;
    size_t bytes = 0;
    cuda::Event sent;
    explicit Parcel(size_t n) : bytes(n) { RK_CUDA(cudaMalloc(&memory, n)); }
    Parcel(const Parcel&) = delete;
    ~Parcel() { cudaFree(memory); }
  };
  struct Lane {
    Line* line = nullptr;
    std::optional<cuda::Stream> stream;
    std::list<Parcel> parcels;
    Parcel& parcel(size_t bytes) {
      for (Parcel& p : parcels)
        if (p.bytes == bytes && cudaEventQuery(p.sent.native()) == cudaSuccess) return p;
      return parcels.emplace_back(bytes);
    }
  };
  // A call: its place in the watch, its name in profiles, and the stream it goes to.
  struct Step {
    Step(Session& s, Collective kind, const Tensor& data)
        : session(s),
          what(str(name_of(kind), " of ", data.bytes(), " bytes")),
          range(s.device, name_of(kind)) {
      RK_CHECK(&data.device() == &s.device, "[", name_of(kind), "] a tensor of another device");
      s.watch->check();
      s.watch->begin_collective(kind, data.bytes());
    }
    ~Step() { session.watch->end_collective(); }
    Step(const Step&) = delete;
    Session& session;
    const std::string what;
    const Range range;
    const cudaStream_t stream = static_cast<cudaStream_t>(session.device.native_stream());
  };

  template <class F>
  void run(Collective kind, const Tensor& data, F&& body) {
    const Step step(*session_, kind, data);
    session_->call(*line_, name_of(kind), [&] { return body(step.stream); });
    session_->note(*line_, step.what, step.stream);
  }
  static size_t count_of(const Tensor& t) { return static_cast<size_t>(t.numel()); }
  void check_rank(int rank, std::string_view who) const {
    RK_CHECK(rank >= 0 && rank < size_, who, " rank ", rank, " of ", size_);
  }

  std::shared_ptr<Session> session_;
  Line* line_;
  const int rank_, size_, exceptions_ = std::uncaught_exceptions();
  Lane up_, down_;
  std::deque<Tensor> own_;
  Tensor token_;
};

}  // namespace

bool built() { return true; }

std::string version() {
  int v = 0;
  lib().ncclGetVersion(&v);
  return str(v / 10000, ".", v % 10000 / 100, ".", v % 100);
}

std::string unique_id() {
  ncclUniqueId id;
  if (const ncclResult_t result = lib().ncclGetUniqueId(&id); result != ncclSuccess)
    fail(ExitCode::kUnavailable, "COMM-09", "ncclGetUniqueId: ", text_of(nullptr, result));
  return std::string(id.internal, sizeof id.internal);
}

std::unique_ptr<Communicator> communicator(Device& device, const std::string& unique_id,
                                           std::shared_ptr<Watch> watch) {
  ncclUniqueId id;
  RK_CHECK(unique_id.size() == sizeof id.internal, "[nccl] an id of ", unique_id.size(), " bytes");
  std::memcpy(id.internal, unique_id.data(), sizeof id.internal);
  const int rank = watch->rank(), size = watch->size();
  auto session = std::make_shared<Session>(device, std::move(watch));
  static_cast<void>(device.native_stream());  // makes the GPU current
  ncclConfig_t c = config();
  Session::Line* line = session->open("ncclCommInitRankConfig", [&](ncclComm_t* comm) {
    return lib().ncclCommInitRankConfig(comm, size, id, rank, &c);
  });
  return std::make_unique<NcclCommunicator>(std::move(session), line, rank, size);
}

}  // namespace rookery::nccl
