// param_store.h: where parameters live. All masters lie in one flat bucket, all gradients in another and,
// where a GPU computes in bf16, the copies that operations read in a third; in the order of registration, so
// one collective or one sweep of the optimizer serves the whole model. Level 0: every rank holds everything.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/autograd/autograd.h"
#include "parallel/mesh/mesh.h"

namespace rookery {

class ParamStore {
 public:
  enum class Copies : uint8_t { kNone, kBf16 };
  // Gives each parameter its master and grad, and its copy if there are any; the buckets are zero at first.
  // dtype: f32, or f64 for checks.
  ParamStore(std::vector<Parameter*> parameters, DType dtype, Device& device,
             const Mesh& mesh = Mesh::single(), Copies copies = Copies::kNone);

  const std::vector<Parameter*>& parameters() const { return parameters_; }
  // Elements [begin, end) of the buckets. Each parameter begins at a multiple of 64 bytes; the gaps stay
  // zero.
  struct Range {
    int64_t begin, end;
  };
  Range range(size_t index) const { return ranges_[index]; }
  const Tensor& masters() const { return masters_; }
  const Tensor& grads() const { return grads_; }
  const Tensor& copies() const { return copies_; }  // undefined: none
  DType dtype() const { return masters_.dtype(); }
  Device& device() const { return masters_.device(); }
  const Mesh& mesh() const { return mesh_; }
  int64_t num_elements() const;  // without the gaps

  void begin_step();  // the first gradient of each parameter overwrites
  // Gradients complete: those of a tied parameter summed over its two stages, then all summed over the
  // replicas and, of parameters that every tensor rank has whole, over the tensor axis (what flows along the
  // residual stream backward is a part of a sum on each of these ranks). Those that nothing wrote are zero.
  void finish_reduction();
  // Whether this rank, of those of the tensor and the pipe axis that have the parameter or a part of it, is
  // the one that counts it in sums over the model.
  bool counts(const Parameter& p) const;
  // Whoever writes masters says so by this: their copies become the same numbers. (The optimizer writes
  // both.)
  void publish();

 private:
  void join_tied();
  std::vector<Parameter*> parameters_;
  std::vector<Range> ranges_;
  const Mesh& mesh_;
  Tensor masters_, grads_, copies_;
};

}  // namespace rookery
