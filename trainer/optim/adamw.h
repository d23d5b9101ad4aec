// adamw.h: the optimizer: global gradient norm, clipping, AdamW by groups, moments in flat buckets beside
// those of the ParamStore.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/autograd/autograd.h"
#include "kernels/ops/adamw/adamw.h"
#include "parallel/shard/param_store.h"
#include "trainer/models/model.h"

namespace rookery {

struct AdamwConfig {
  double beta1 = 0.9, beta2 = 0.99, eps = 1e-18, weight_decay = 0.001;
  double grad_clip = 1.0;  // limit of the global norm; 0: no clipping
};

// A range of one axis of a tensor that was created at one time, with the updates it has had: parts grown
// later have their own bias correction. The segments of a tensor cover that axis without gaps.
struct OptimSegment {
  int axis;
  int64_t begin, end;
  int64_t steps;
};

class AdamW {
 public:
  AdamW(ParamStore& store, const AdamwConfig& config,
        const std::function<OptimGroup(const Parameter&)>& group_of);

  struct Report {
    double grad_norm;  // before clipping
    double clip_coef;  // min(1, grad_clip / (norm + 1e-6))
    bool finite;       // false: nothing was changed
  };
  Report step(double lr);
  // The same in parts. Between set_rate() and finish() nothing waits for a GPU, and all numbers that change
  // from step to step lie in its memory, so that a graph can repeat launch(). losses: of the whole step, in
  // the dtype of the masters, or undefined; where one is not finite nothing is changed.
  void set_rate(double lr);
  void launch(const Tensor& losses);
  Report finish();

  // Every rank calls it. Of the parameters, their gradients before clipping, and the change that step(lr) has
  // just made: L2 norms over each part of the model. Before the next backward pass.
  struct Norms {
    std::string part;
    double param = 0, grad = 0, change = 0;
  };
  std::vector<Norms> norms(double lr, const std::function<std::string(const Parameter&)>& part_of);

  const Tensor& m() const { return m_; }
  const Tensor& v() const { return v_; }
  const std::vector<OptimSegment>& segments(size_t parameter) const { return segments_[parameter]; }
  void set_segments(size_t parameter, std::vector<OptimSegment> segments);

 private:
  // The owned ranges of a parameter's segments with their rules, where the optimizer has done `updates`.
  std::vector<AdamwRange> ranges(size_t parameter, int64_t updates) const;
  // Of the whole gradient: each element of the global model counts once. The same bits on every rank.
  double squares() const;
  void update_on_host(double clip);
  // Adds to three sums of squares for each parameter's place (norms()).
  void add_norms(const ParamStore::Part& part, double lr, std::span<const size_t> place,
                 std::span<double> sums) const;
  bool on_cpu() const { return store_.device().target() == DeviceType::kCpu; }

  ParamStore& store_;
  AdamwConfig config_;
  std::vector<OptimGroup> groups_;
  std::vector<std::vector<OptimSegment>> segments_;
  Tensor m_, v_, scratch_;
  double lr_ = 0;
  Report report_{};      // of the CPU, which is done when launch() is
  int64_t updates_ = 0;  // that changed something, of this object
  // What the GPU reads: the ranges of the parameters that are trained, the rate, its own counts.
  AdamwTable table_;
  Tensor rate_, state_;
};

}  // namespace rookery
