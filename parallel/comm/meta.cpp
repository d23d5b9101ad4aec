#include "parallel/comm/meta.h"

namespace rookery {
namespace {

int64_t bytes_of(const Tensor& t) { return static_cast<int64_t>(t.bytes()); }

}  // namespace

void MetaCommunicator::all_reduce(const Tensor& data, Reduce) {
  add_count(Collective::kAllReduce, comm_detail::all_reduce_bytes(data, rank_, size_));
}

void MetaCommunicator::reduce_scatter(const Tensor& in, const Tensor& out, Reduce) {
  comm_detail::check_slices(in, out, size_, "[reduce_scatter] in");
  add_count(Collective::kReduceScatter, bytes_of(out) * (size_ - 1));
}

void MetaCommunicator::all_gather(const Tensor& in, const Tensor& out) {
  comm_detail::check_slices(out, in, size_, "[all_gather] out");
  add_count(Collective::kAllGather, bytes_of(in) * (size_ - 1));
}

void MetaCommunicator::all_to_all(const Tensor& in, const Tensor& out, const RowCounts& rows) {
  const auto ranges = comm_detail::row_ranges(in, out, rows, size_);
  const auto me = static_cast<size_t>(rank_);
  const int64_t to_me = ranges.send_begin[me + 1] - ranges.send_begin[me];
  add_count(Collective::kAllToAll, (in.dim(0) - to_me) * static_cast<int64_t>(comm_detail::row_bytes(in)));
}

void MetaCommunicator::broadcast(const Tensor& data, int root) {
  add_count(Collective::kBroadcast, comm_detail::broadcast_bytes(data, root, rank_, size_));
}

void MetaCommunicator::send(const Tensor& data, int to) {
  add_count(Collective::kSend, to == rank_ ? 0 : bytes_of(data));
}

void MetaCommunicator::recv(const Tensor&, int) { add_count(Collective::kRecv, 0); }

void MetaCommunicator::barrier() { add_count(Collective::kBarrier, 0); }

std::unique_ptr<Communicator> MetaCommunicator::split(int colour, int) {
  add_count(Collective::kSplit, 0);
  return colour < 0 ? nullptr : std::make_unique<MetaCommunicator>(rank_, size_);
}

}  // namespace rookery
