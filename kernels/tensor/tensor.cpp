// tensor.cpp: creation, views, copies.
#include "kernels/tensor/tensor.h"

namespace rookery {

std::string to_string(const Shape& shape) {
  std::string out = "[";
  for (int i = 0; i < shape.size(); ++i) append_str(out += i ? ", " : "", shape[i]);
  return out + "]";
}

Tensor Tensor::reshape(Shape shape) const {
  RK_CHECK(shape.numel() == numel(), "[reshape] ", shape_, " to ", shape);
  Tensor t = *this;
  t.shape_ = shape;
  return t;
}

Tensor Tensor::narrow(int64_t begin, int64_t count) const {
  RK_CHECK(shape_.size() >= 1 && begin >= 0 && count >= 0 && begin + count <= shape_[0], "[narrow] rows ",
           begin, " to ", begin + count, " of ", shape_);
  std::vector<int64_t> dims(shape_.begin(), shape_.end());
  const int64_t row = shape_[0] == 0 ? 0 : numel() / shape_[0];
  dims[0] = count;
  Tensor t = *this;
  t.shape_ = Shape(std::span<const int64_t>(dims));
  t.offset_ += static_cast<size_t>(begin * row) * dtype_size(dtype_);
  return t;
}

Tensor empty(const Shape& shape, DType dtype, Device& device) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  const size_t bytes = t.bytes();
  t.block_ =
      std::shared_ptr<Tensor::Block>(new Tensor::Block{&device, device.arena().allocate(bytes), bytes});
  return t;
}

Tensor empty_like(const Tensor& like) { return empty(like.shape(), like.dtype(), like.device()); }

Tensor zeros(const Shape& shape, DType dtype, Device& device) {
  Tensor t = empty(shape, dtype, device);
  fill_zero(t);
  return t;
}

void fill_zero(const Tensor& t) {
  if (t.device().type() != DeviceType::kMeta) std::memset(t.raw(), 0, t.bytes());
}

namespace {
constexpr int64_t kCopyGrain = 1 << 18;  // bytes per thread below which waking it does not pay
}  // namespace

void copy(const Tensor& from, const Tensor& to) {
  RK_CHECK(from.shape() == to.shape(), "[copy] ", from.shape(), " to ", to.shape());
  if (from.device().type() == DeviceType::kMeta) return;
  if (from.dtype() == to.dtype()) {
    if (from.raw() == to.raw()) return;
    parallel_for(to.device().pool(), static_cast<int64_t>(from.bytes()), kCopyGrain,
                 [&](int64_t begin, int64_t end) {
                   std::memcpy(to.raw() + begin, from.raw() + begin, static_cast<size_t>(end - begin));
                 });
    return;
  }
  RK_CHECK(is_float(from.dtype()) && is_float(to.dtype()), "[copy] ", from.dtype(), " to ", to.dtype());
  const int64_t n = from.numel();
  if (from.dtype() == DType::kF64) {
    for (int64_t i = 0; i < n; ++i) to.data<float>()[i] = static_cast<float>(from.data<double>()[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) to.data<double>()[i] = from.data<float>()[i];
  }
}

namespace {
template <class T>
void sum_loop(const T* a, const T* b, T* out, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) out[i] = a[i] + b[i];
}
constexpr int64_t kSumGrain = 1 << 16;  // elements per thread below which waking it does not pay
void sum(const Tensor& a, const Tensor& b, const Tensor& out, std::string_view who) {
  RK_CHECK(a.shape() == b.shape() && a.dtype() == b.dtype() && is_float(a.dtype()), who, " ", a.shape(), " ",
           a.dtype(), " and ", b.shape(), " ", b.dtype());
  if (a.device().type() == DeviceType::kMeta) return;
  dispatch_float(a.dtype(), [&]<class T>() {
    parallel_for(a.device().pool(), a.numel(), kSumGrain, [&](int64_t begin, int64_t end) {
      sum_loop(a.data<T>(), b.data<T>(), out.data<T>(), begin, end);
    });
  });
}
}  // namespace

void add_to(const Tensor& from, const Tensor& to) { sum(to, from, to, "[add_to]"); }

Tensor sum_of(const Tensor& a, const Tensor& b) {
  Tensor out = empty_like(a);
  sum(a, b, out, "[sum_of]");
  return out;
}

void check_shape(const Tensor& t, const Shape& expected, std::string_view who) {
  RK_CHECK(t.shape() == expected, who, " must be ", expected, ", is ", t.shape());
}

std::vector<double> to_doubles(const Tensor& t) {
  std::vector<double> out(static_cast<size_t>(t.numel()));
  for (size_t i = 0; i < out.size(); ++i) {
    switch (t.dtype()) {
      case DType::kF64:
        out[i] = t.data<double>()[i];
        break;
      case DType::kF32:
        out[i] = t.data<float>()[i];
        break;
      case DType::kI64:
        out[i] = static_cast<double>(t.data<int64_t>()[i]);
        break;
      case DType::kI32:
        out[i] = t.data<int32_t>()[i];
        break;
      case DType::kU8:
        out[i] = t.data<uint8_t>()[i];
        break;
    }
  }
  return out;
}

}  // namespace rookery
