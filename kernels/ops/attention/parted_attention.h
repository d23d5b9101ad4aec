// parted_attention.h: attention whose keys come in parts, with what each part adds to the gradients: what
// ring attention is made of (parallel/sequence/ring_attention.h). Kernels: attention.h.
#pragma once

#include <vector>

#include "kernels/ops/attention/attention.h"

namespace rookery::ops {

// Of q [B, T, Hq, D] after options.past tokens. Sums of several parts follow arXiv 2112.05682; y and its
// gradients are those of attention() on all keys at once, to rounding.
class PartedAttention {
 public:
  PartedAttention(const Tensor& q, const AttentionOptions& options);
  // Keys and values [B, count, Hkv, D] of the tokens from `begin` on.
  void add(const Tensor& k, const Tensor& v, int64_t begin, bool last);
  const Tensor& y() const { return args_.y; }  // after the last part
  // The part of the gradients that the keys of one of those parts make. Undefined tensors: not wanted.
  void backward(const Tensor& dy, const Tensor& k, const Tensor& v, int64_t begin, const GradTarget& dq,
                const GradTarget& dk, const GradTarget& dv) const;

 private:
  AttentionArgs args_;
  int64_t past_;
  std::vector<std::pair<int64_t, Tensor>> first_;  // by part: AttentionArgs::first
};

}  // namespace rookery::ops
