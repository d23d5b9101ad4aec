// communicator.h: how ranks exchange tensors. Backends: self (below), threads (threads.h). Code is written
// for n ranks; one rank is a case of it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/tensor/tensor.h"

namespace rookery {

enum class Reduce : uint8_t { kSum, kMax, kMin };  // of max and min, a NaN on any rank wins
std::string to_string(Reduce op);

// What a communicator counts, and what messages call it.
enum class Collective : uint8_t {
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kAllToAll,
  kBroadcast,
  kSend,
  kRecv,
  kBarrier,
  kSplit,
};
inline constexpr int kNumCollectives = 9;
std::string_view name_of(Collective kind);  // "all_reduce"

// Bytes are those of tensors that this rank sends to others. Of all_reduce and broadcast rank r handles the
// elements [n r / size, n (r + 1) / size): it is sent the others' (broadcast: the root's) values of these,
// and sends the result to each of the others. Up to kShortBytes all values go to each at once.
inline constexpr size_t kShortBytes = 1024;
struct CollectiveCount {
  int64_t calls = 0, bytes = 0;
};

// Rows of dim 0 to and from each rank, for all_to_all. Both empty: the same number to each.
struct RowCounts {
  std::vector<int64_t> send, recv;
};

// Every rank calls the same collectives in the same order; a call returns when its result is there and its
// inputs may be overwritten. Sums run over the ranks in their order, so results repeat bit for bit and are
// equal on every rank. Tensors are contiguous; their dtype is f64, f32, i64 or i32 where numbers are reduced,
// any elsewhere. Errors (all of them wake the other ranks, which leave with kPeerFailed):
//   COMM-01 kHang: ranks did not come within the time limit; names them
//   COMM-02 kInternal: ranks called different things; names two that differ
//   COMM-03 kPeerFailed: another rank failed or called abort()
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  virtual void all_reduce(const Tensor& data, Reduce op) = 0;  // in place
  // in: size() slices of out's size, one after the other; rank r gets slice r, reduced.
  virtual void reduce_scatter(const Tensor& in, const Tensor& out, Reduce op) = 0;
  // out: size() slices of in's size; in may be this rank's slice of out.
  virtual void all_gather(const Tensor& in, const Tensor& out) = 0;
  // Rows for rank 0, then for rank 1, .. in `in`; rows from rank 0, then from rank 1, .. in `out`.
  virtual void all_to_all(const Tensor& in, const Tensor& out, const RowCounts& rows) = 0;
  virtual void broadcast(const Tensor& data, int root) = 0;
  virtual void send(const Tensor& data, int to) = 0;  // returns at once: the data is copied
  virtual void recv(const Tensor& data, int from) = 0;
  virtual void barrier() = 0;
  // The ranks that give the same colour, ordered by (key, rank); null for a negative colour.
  virtual std::unique_ptr<Communicator> split(int colour, int key) = 0;
  // Wakes every rank that waits, in this and in all communicators split from the same world.
  virtual void abort(std::string_view why) = 0;

  // Of this communicator since it was made, calls under way included. Read by the thread that calls it.
  const CollectiveCount& count(Collective kind) const { return counts_[static_cast<size_t>(kind)]; }

 protected:
  void add_count(Collective kind, int64_t bytes) {
    CollectiveCount& c = counts_[static_cast<size_t>(kind)];
    ++c.calls;
    c.bytes += bytes;
  }

 private:
  std::array<CollectiveCount, kNumCollectives> counts_{};
};

// The only rank there is.
std::unique_ptr<Communicator> self_communicator();

namespace comm_detail {
// Offsets in rows of each rank's part; checks the counts against the tensors.
struct RowRanges {
  std::vector<int64_t> send_begin, recv_begin;  // size() + 1 each
};
RowRanges row_ranges(const Tensor& in, const Tensor& out, const RowCounts& rows, int size);
void check_slices(const Tensor& whole, const Tensor& slice, int size, std::string_view who);
size_t row_bytes(const Tensor& t);

// Element where the part of rank r begins.
constexpr int64_t part_begin(int64_t numel, int rank, int size) { return numel * rank / size; }
inline bool is_short(const Tensor& data) { return data.bytes() <= kShortBytes; }
// Bytes that rank `rank` of `size` sends (CollectiveCount).
int64_t all_reduce_bytes(const Tensor& data, int rank, int size);
int64_t broadcast_bytes(const Tensor& data, int root, int rank, int size);
}  // namespace comm_detail

}  // namespace rookery
