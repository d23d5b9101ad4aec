// attention_gpu.h: what the kernels of attention for GPUs are given, by attention_cuda.cu: attention_fma.h
// (f32) and attention_mma.h (bf16, tensor cores).
#pragma once

#include "kernels/ops/attention/attention.h"
#include "kernels/ops/grad_out.h"

namespace rookery::RK_BACKEND {
namespace {

struct Sizes {
  int64_t B, tokens, S, Hq, Hkv, D, past;
  RK_DEV int64_t q_at(int64_t b, int64_t t, int64_t h) const { return ((b * tokens + t) * Hq + h) * D; }
  RK_DEV int64_t k_at(int64_t b, int64_t s, int64_t h) const { return ((b * S + s) * Hkv + h) * D; }
  RK_DEV int64_t row_at(int64_t b, int64_t h, int64_t t) const { return (b * Hq + h) * tokens + t; }
  // Whether query t of sequence b sees key s.
  RK_DEV bool sees(const int32_t* first, int64_t b, int64_t t, int64_t s) const {
    return t < tokens && s < S && s <= past + t && !(first && s < first[b * tokens + t]);
  }
};

RK_DEV int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
RK_DEV int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// One element of a gradient.
template <class T>
RK_DEV void put_as(const rk::GradOut& out, int64_t i, float value) {
  T& to = static_cast<T*>(out.data)[i];
  to = T(out.accumulate ? float(to) + value : value);
}
RK_DEV void put(const rk::GradOut& out, int64_t i, float value) {
  if (out.is_bf16) {
    put_as<bf16>(out, i, value);
  } else {
    put_as<float>(out, i, value);
  }
}

RK_DEV uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
RK_DEV float from_bits(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// How many floats x lies above itself rounded to bf16: 16 bits that give x back. One more than they hold,
// 2^15 (half way, rounded down to even), gives the float before x.
RK_DEV int16_t rest_of(float x) {
  const auto floats = static_cast<int32_t>(bits_of(x) - bits_of(float(bf16(x))));
  return static_cast<int16_t>(floats < INT16_MAX ? floats : INT16_MAX);
}
RK_DEV float with_rest(float rounded, float rest) {
  return from_bits(bits_of(rounded) + static_cast<uint32_t>(static_cast<int32_t>(rest)));
}

template <class T>
struct Forward {
  Sizes n;
  const T *q, *k, *v;
  const int32_t* first;  // may be null
  float scale;
  T* y;
  int16_t* rest;  // of y; may be null
  float *top, *weight, *sums;
  bool first_part, last_part;
};

template <class T>
struct Backward {
  Sizes n;
  const T *q, *k, *v, *dy;
  const int32_t* first;  // may be null
  float scale;
  const float *top, *weight, *delta;
  rk::GradOut dq, dk, dv;
};

}  // namespace
}  // namespace rookery::RK_BACKEND
