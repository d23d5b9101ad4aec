// meta.h: a rank of a group that is only thought of, for the meta device: collectives move nothing, and count
// what the same calls of a real backend count. Who plans with it: trainer/loop/memory_plan.cpp.
#pragma once

#include "parallel/comm/communicator.h"

namespace rookery {

class MetaCommunicator : public Communicator {
 public:
  MetaCommunicator(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void all_reduce(const Tensor& data, Reduce op) override;
  void reduce_scatter(const Tensor& in, const Tensor& out, Reduce op) override;
  void all_gather(const Tensor& in, const Tensor& out) override;
  void all_to_all(const Tensor& in, const Tensor& out, const RowCounts& rows) override;
  void broadcast(const Tensor& data, int root) override;
  void send(const Tensor& data, int to) override;
  void recv(const Tensor& data, int from) override;
  void barrier() override;
  // As if all ranks gave this colour; who knows better makes the group by its size (Mesh).
  std::unique_ptr<Communicator> split(int colour, int key) override;
  void abort(std::string_view) override {}

 private:
  int rank_, size_;
};

}  // namespace rookery
