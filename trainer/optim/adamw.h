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

  // Of the parameters, their gradients before clipping, and the change that step(lr) has just made: L2 norms
  // over each part of the model. Before the next backward pass.
  struct Norms {
    std::string part;
    double param = 0, grad = 0, change = 0;
  };
  std::vector<Norms> norms(double lr, const std::function<std::string(const Parameter&)>& part_of);

  const Tensor& m() const { return m_; }
  const Tensor& v() const { return v_; }
  std::vector<OptimSegment>& segments(size_t parameter) { return segments_[parameter]; }

 private:
  // Calls visit(update) for each segment of a parameter, in flat ranges.
  void for_each_range(size_t parameter, double lr, double clip,
                      const std::function<void(const AdamwArgs&)>& visit) const;
  ParamStore& store_;
  AdamwConfig config_;
  std::vector<OptimGroup> groups_;
  std::vector<std::vector<OptimSegment>> segments_;
  Tensor m_, v_, scratch_;
};

}  // namespace rookery
