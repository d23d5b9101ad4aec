// adamw.h: the optimizer: global gradient norm, clipping, AdamW by groups, moments in flat buckets beside
// those of the ParamStore.
#pragma once

#include <functional>
#include <vector>

#include "kernels/autograd/autograd.h"
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

  const Tensor& m() const { return m_; }
  const Tensor& v() const { return v_; }
  std::vector<OptimSegment>& segments(size_t parameter) { return segments_[parameter]; }

 private:
  ParamStore& store_;
  AdamwConfig config_;
  std::vector<OptimGroup> groups_;
  std::vector<std::vector<OptimSegment>> segments_;
  Tensor m_, v_, scratch_;
};

}  // namespace rookery
