// communicator.cpp: the backend for one rank, and checks that all backends share.
#include "parallel/comm/communicator.h"

#include <deque>

namespace rookery {

std::string to_string(Reduce op) {
  switch (op) {
    case Reduce::kSum:
      return "sum";
    case Reduce::kMax:
      return "max";
    case Reduce::kMin:
      return "min";
  }
  return "?";
}

std::string_view name_of(Collective kind) {
  constexpr std::array<std::string_view, kNumCollectives> kNames = {
      "all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast",
      "send",       "recv",           "barrier",    "split"};
  return kNames[static_cast<size_t>(kind)];
}

namespace comm_detail {
namespace {

std::vector<int64_t> begins(const std::vector<int64_t>& counts, const Tensor& t, int size,
                            std::string_view who) {
  RK_CHECK(t.shape().size() >= 1, who, " needs rows, has shape ", t.shape());
  if (counts.empty())
    RK_CHECK(t.dim(0) % size == 0, who, " has ", t.dim(0), " rows, which ", size, " ranks cannot share");
  RK_CHECK(counts.empty() || static_cast<int>(counts.size()) == size, who, " has counts for ", counts.size(),
           " of ", size, " ranks");
  std::vector<int64_t> begin = {0};
  for (int r = 0; r < size; ++r)
    begin.push_back(begin.back() + (counts.empty() ? t.dim(0) / size : counts[r]));
  RK_CHECK(begin.back() == t.dim(0), who, " has ", t.dim(0), " rows, the counts add up to ", begin.back());
  return begin;
}

}  // namespace

RowRanges row_ranges(const Tensor& in, const Tensor& out, const RowCounts& rows, int size) {
  RowRanges ranges{begins(rows.send, in, size, "[all_to_all] in"),
                   begins(rows.recv, out, size, "[all_to_all] out")};
  RK_CHECK(in.dtype() == out.dtype(), "[all_to_all] ", in.dtype(), " to ", out.dtype());
  return ranges;
}

void check_slices(const Tensor& whole, const Tensor& slice, int size, std::string_view who) {
  RK_CHECK(whole.numel() == slice.numel() * size && whole.dtype() == slice.dtype(), who, " ", whole.shape(),
           " ", whole.dtype(), " is not ", size, " times ", slice.shape(), " ", slice.dtype());
}

size_t row_bytes(const Tensor& t) {
  size_t bytes = dtype_size(t.dtype());
  for (int i = 1; i < t.shape().size(); ++i) bytes *= static_cast<size_t>(t.dim(i));
  return bytes;
}

int64_t all_reduce_bytes(const Tensor& data, int rank, int size) {
  const int64_t n = data.numel(), mine = part_begin(n, rank + 1, size) - part_begin(n, rank, size);
  if (is_short(data)) return static_cast<int64_t>(data.bytes()) * (size - 1);
  return (n - mine + mine * (size - 1)) * static_cast<int64_t>(dtype_size(data.dtype()));
}

int64_t broadcast_bytes(const Tensor& data, int root, int rank, int size) {
  const int64_t n = data.numel(), mine = part_begin(n, rank + 1, size) - part_begin(n, rank, size);
  if (is_short(data)) return rank == root ? static_cast<int64_t>(data.bytes()) * (size - 1) : 0;
  return ((rank == root ? n - mine : 0) + mine * (size - 1)) * static_cast<int64_t>(dtype_size(data.dtype()));
}

}  // namespace comm_detail

namespace {

class SelfCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }

  void all_reduce(const Tensor&, Reduce) override { add_count(Collective::kAllReduce, 0); }
  void reduce_scatter(const Tensor& in, const Tensor& out, Reduce) override {
    add_count(Collective::kReduceScatter, 0);
    move(in, out, "[reduce_scatter]");
  }
  void all_gather(const Tensor& in, const Tensor& out) override {
    add_count(Collective::kAllGather, 0);
    move(in, out, "[all_gather]");
  }
  void all_to_all(const Tensor& in, const Tensor& out, const RowCounts& rows) override {
    add_count(Collective::kAllToAll, 0);
    comm_detail::row_ranges(in, out, rows, 1);
    move(in, out, "[all_to_all]");
  }
  void broadcast(const Tensor&, int root) override {
    add_count(Collective::kBroadcast, 0);
    check_rank(root, "[broadcast]");
  }
  void send(const Tensor& data, int to) override {
    add_count(Collective::kSend, 0);
    check_rank(to, "[send]");
    sent_.push_back(empty_like(data));
    copy(data, sent_.back());
  }
  void recv(const Tensor& data, int from) override {
    add_count(Collective::kRecv, 0);
    check_rank(from, "[recv]");
    RK_CHECK(!sent_.empty(), "[recv] nothing was sent");
    move(sent_.front(), data, "[recv]");
    sent_.pop_front();
  }
  void barrier() override { add_count(Collective::kBarrier, 0); }
  std::unique_ptr<Communicator> split(int colour, int) override {
    add_count(Collective::kSplit, 0);
    return colour < 0 ? nullptr : self_communicator();
  }
  void abort(std::string_view) override {}

 private:
  static void check_rank(int rank, std::string_view who) {
    RK_CHECK(rank == 0, who, " rank ", rank, " of 1");
  }
  static void move(const Tensor& in, const Tensor& out, std::string_view who) {
    comm_detail::check_slices(in, out, 1, who);
    copy(in.reshape(out.shape()), out);
  }
  std::deque<Tensor> sent_;
};

}  // namespace

std::unique_ptr<Communicator> self_communicator() { return std::make_unique<SelfCommunicator>(); }

}  // namespace rookery
