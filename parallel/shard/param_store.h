// param_store.h: where parameters live, and what the ranks of data x seq divide of them (ZeRO; arXiv
// 1910.02054, section 5). Parameters of a unit (embedding, each block, last norm with head) lie side by side
// in a flat bucket, so that one collective or one sweep of the optimizer serves all of it. What happens when
// in a step: param_store.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/autograd/autograd.h"
#include "parallel/comm/comm_stream.h"
#include "parallel/mesh/mesh.h"

namespace rookery {

// Level 0: each rank holds everything. Above it a bucket is cut into as many equal slices as there are
// replicas, and each owns one: at level 1 its moments are cut, at 2 its gradients too, at 3 its parameters
// too. Of the units that are not blocks all gradients (2) and parameters (3) are there during a step; blocks
// take turns in two buffers of the largest.
class ParamStore {
 public:
  enum class Copies : uint8_t { kNone, kBf16 };
  // Gives each parameter its master and grad, and its copy if there are any; the buckets are zero at first.
  // dtype: f32, or f64 for checks. zero: the level; with one replica there is nothing to divide. Every rank
  // of the mesh makes its store at the same time.
  ParamStore(std::vector<Parameter*> parameters, DType dtype, Device& device,
             const Mesh& mesh = Mesh::single(), Copies copies = Copies::kNone, int64_t zero = 0);

  const std::vector<Parameter*>& parameters() const { return parameters_; }
  // What this rank owns is counted through, its elements being those of the moments; [begin, end) of a
  // parameter are elements `first` and those that follow of its local part. Without slices each parameter
  // begins at a multiple of 64 bytes; the gaps stay zero.
  struct Range {
    int64_t begin, end;
    int64_t first;
  };
  Range range(size_t index) const;
  int64_t num_owned() const { return owned_; }
  // The owned elements from `begin` on: flat tensors of the same size. The whole buckets where nothing is
  // cut, else a slice of each unit.
  struct Part {
    Tensor master, grad;
    int64_t begin;
  };
  const std::vector<Part>& parts() const { return parts_; }
  const Part& part(size_t index) const { return parts_[parts_.size() == 1 ? 0 : unit_of_[index]]; }

  // The whole buckets; where parameters (level 3) or gradients (2) are cut what is owned of them.
  const Tensor& masters() const { return masters_; }
  const Tensor& grads() const { return grads_; }
  const Tensor& copies() const { return copies_; }  // undefined: none
  DType dtype() const { return masters_.dtype(); }
  Device& device() const { return masters_.device(); }
  const Mesh& mesh() const { return mesh_; }
  int64_t level() const { return level_; }
  int64_t num_elements() const;  // of the local parts, without the gaps
  // Whether this rank, of those of the tensor and the pipe axis that have the parameter or a part of it, is
  // the one that counts it in sums over the model.
  bool counts(const Parameter& p) const;
  bool counts_all() const;

  // The local part of a parameter, gathered where it is cut; every replica calls it.
  Tensor values(const Parameter& p);
  // Keeps what this rank holds of these values of the local part. publish() follows.
  void assign(const Parameter& p, const Tensor& values);

  // ---- a step

  void begin_step();  // the first gradient of each parameter overwrites
  // Before the backward pass of each micro-batch: the gradients of a unit are summed, beside the computation,
  // as soon as its last one is there (which that is the first pass shows); below level 2 in the last pass
  // alone.
  void reduce_during(Tape& tape, bool last);
  // Gradients complete: those of a tied parameter summed over its two stages, then all summed over the
  // replicas and, of parameters that every tensor rank has whole, over the tensor axis (what flows along the
  // residual stream backward is a part of a sum on each of these ranks). Those that nothing wrote are zero.
  void finish_reduction();
  // Whoever writes masters says so by this: what others read of them becomes the same numbers, beside what
  // the caller does until it reads them. (The optimizer writes copies itself.)
  void publish();
  // Until all parameters that this rank holds are what was published.
  void await_parameters();

  // ---- what a model tells at each block (nn::Context::units)

  // The store, where blocks must announce themselves; null: all that they read is there.
  ParamStore* units() { return level_ > 0 ? this : nullptr; }
  void enter(int64_t unit);  // before its forward pass: its parameters are there, the next are under way
  // x: what goes from the unit to the next. The same value; when its gradient comes, the unit's memory is
  // made ready for its backward pass.
  Var watch(int64_t unit, const Var& x);

 private:
  struct Unit {
    std::vector<size_t> members;        // places in parameters_
    int64_t begin = 0, size = 0;        // in whole buckets
    int64_t whole = 0;                  // the first elements: those that all tensor ranks have whole
    int64_t slice = 0, slice_size = 0;  // in owned ones
    bool block = false;
    bool tied = false;            // summed over two stages before all else
    Tensor values, grads;         // [size]: what operations read and write
    Tensor own_master, own_grad;  // [slice_size]
    std::vector<Range> gaps = {};
    int64_t used = 0;                      // of its parameters, as the passes before showed
    int64_t ready = 0;                     // in this pass
    bool reduced = false, summed = false;  // in this pass; in this step
    CommStream::Ticket reduction = 0, gathering = 0;
  };
  void lay_out();
  void allocate(Copies copies, DType dtype, Device& device);
  Unit& unit(int64_t number) {
    return units_[static_cast<size_t>(place_of_unit_[static_cast<size_t>(number)])];
  }
  bool together() const { return !comm_; }  // one rank has all of it
  size_t turn_of(const Unit& unit) const { return static_cast<size_t>(&unit - units_.data()) % 2; }
  size_t index_of(const Parameter& p) const;
  void join_tied();
  void open(Unit& unit);
  void complete(Unit& unit);
  void reduce(Unit& unit);
  void gather(Unit& unit);
  CommStream::Ticket submit(std::function<void()> work);

  std::vector<Parameter*> parameters_;
  const Mesh& mesh_;
  int64_t level_ = 0, slices_ = 1, owned_ = 0;
  std::vector<Unit> units_;
  std::vector<int64_t> place_of_unit_;  // by number
  std::vector<size_t> unit_of_;         // by parameter
  std::vector<int64_t> place_in_unit_;  // by parameter, in elements
  std::vector<Part> parts_;
  Tensor masters_, grads_, copies_;
  std::array<Tensor, 2> turns_of_values_, turns_of_grads_;  // what blocks take turns in
  std::array<Unit*, 2> held_{};                             // whose values are, or come, there
  std::unique_ptr<Communicator> replicas_, tensor_;         // for the stream alone
  std::unique_ptr<CommStream> comm_;                        // last: it ends before what it works on
};

}  // namespace rookery
