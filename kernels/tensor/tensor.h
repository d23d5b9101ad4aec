// tensor.h: a counted handle on a contiguous row-major block of memory. Views (reshape, narrow on dim 0)
// share the block.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/tensor/device.h"
#include "kernels/tensor/dtype.h"

namespace rookery {

class Shape {
 public:
  static constexpr int kMaxDims = 6;
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const int64_t> dims) {
    RK_CHECK(dims.size() <= kMaxDims, "[Shape] at most ", kMaxDims, " dims, got ", dims.size());
    for (const int64_t d : dims) dims_[size_++] = d;
  }
  int size() const { return size_; }
  int64_t operator[](int i) const { return dims_[i]; }
  int64_t back() const { return dims_[size_ - 1]; }
  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + size_; }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < size_; ++i) n *= dims_[i];
    return n;
  }
  bool operator==(const Shape&) const = default;

 private:
  std::array<int64_t, kMaxDims> dims_{};
  int size_ = 0;
};
std::string to_string(const Shape& shape);  // "[2, 40, 64]"

class Tensor {
 public:
  Tensor() = default;
  bool defined() const { return block_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int i) const { return shape_[i < 0 ? shape_.size() + i : i]; }
  DType dtype() const { return dtype_; }
  Device& device() const { return *block_->device; }
  int64_t numel() const { return shape_.numel(); }
  size_t bytes() const { return static_cast<size_t>(numel()) * dtype_size(dtype_); }

  template <class T>
  inline __attribute__((always_inline)) T* data() const {
    return reinterpret_cast<T*>(block_->ticket.data + offset_);
  }
  std::byte* raw() const { return block_ ? block_->ticket.data + offset_ : nullptr; }
  template <class T>
  std::span<T> span() const {
    RK_CHECK(DTypeOf<T>::value == dtype_, "[Tensor] holds ", dtype_, ", asked for ", DTypeOf<T>::value);
    return {data<T>(), static_cast<size_t>(numel())};
  }

  // auto [B, T, C] = x.dims<3>("[layer_norm] x");
  template <size_t R>
  std::array<int64_t, R> dims(std::string_view who) const {
    RK_CHECK(shape_.size() == static_cast<int>(R), who, " must have ", R, " dims, has shape ", shape_);
    std::array<int64_t, R> out;
    for (size_t i = 0; i < R; ++i) out[i] = shape_[static_cast<int>(i)];
    return out;
  }

  Tensor reshape(Shape shape) const;                       // same number of elements
  Tensor narrow(int64_t begin, int64_t count) const;       // rows [begin, begin + count) of dim 0
  bool unique() const { return block_.use_count() == 1; }  // nobody else holds the block
  int64_t holders() const { return block_.use_count(); }   // of the block
  bool shares(const Tensor& other) const { return block_ == other.block_; }

 private:
  struct Block {
    Device* device;
    Arena::Ticket ticket;
    size_t bytes;
    ~Block() { device->arena().release(ticket, bytes); }
  };
  friend Tensor empty(const Shape&, DType, Device&);
  std::shared_ptr<Block> block_;
  size_t offset_ = 0;
  Shape shape_;
  DType dtype_ = DType::kF32;
};

Tensor empty(const Shape& shape, DType dtype, Device& device);  // not initialised
Tensor empty_like(const Tensor& like);
Tensor zeros(const Shape& shape, DType dtype, Device& device);
void fill_zero(const Tensor& t);
void copy(const Tensor& from, const Tensor& to);  // same shape; any devices; converts between float types
// Along dim 1: [begin, begin + count) of each row of `from` [B, T, ...] to place `at` of the rows of `to`
// [B, S, ...]; one device, one dtype.
void copy_columns(const Tensor& from, int64_t begin, int64_t count, const Tensor& to, int64_t at);
void add_to(const Tensor& from, const Tensor& to);  // to += from; same shape; bf16 may be added to f32
Tensor sum_of(const Tensor& a, const Tensor& b);    // a new tensor a + b; same shape and float dtype
// Between a tensor and memory of the host of the same bytes; on the host a plain copy.
void download(const Tensor& from, void* host);  // waits for what computes it
void upload(const void* host, const Tensor& to);
void check_shape(const Tensor& t, const Shape& expected, std::string_view who);

// Element i of memory that holds `dtype`.
template <class T>
void put_element(std::byte* data, DType dtype, size_t i, T value) {
  switch (dtype) {
    case DType::kF64:
      reinterpret_cast<double*>(data)[i] = static_cast<double>(value);
      break;
    case DType::kF32:
      reinterpret_cast<float*>(data)[i] = static_cast<float>(value);
      break;
    case DType::kBF16:
      reinterpret_cast<bf16*>(data)[i] = bf16(static_cast<float>(value));
      break;
    case DType::kI64:
      reinterpret_cast<int64_t*>(data)[i] = static_cast<int64_t>(value);
      break;
    case DType::kI32:
      reinterpret_cast<int32_t*>(data)[i] = static_cast<int32_t>(value);
      break;
    case DType::kU8:
      reinterpret_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(value);
      break;
  }
}

// A tensor holding `values`, converted to `dtype`.
template <class T>
Tensor tensor_from(std::span<const T> values, const Shape& shape, DType dtype, Device& device) {
  RK_CHECK(static_cast<int64_t>(values.size()) == shape.numel(), "[tensor_from] ", values.size(),
           " values for shape ", shape);
  Tensor t = empty(shape, dtype, device);
  device.refuse_in_capture("values of the host may be others when the graph runs");
  std::vector<std::byte> staging(device.on_host() ? 0 : t.bytes());
  std::byte* data = device.on_host() ? t.raw() : staging.data();
  for (size_t i = 0; i < values.size(); ++i) put_element(data, dtype, i, values[i]);
  if (!device.on_host()) upload(staging.data(), t);
  return t;
}
// The same in the memory of `t` where that has the shape, so that its address stays; else in a new one.
template <class T>
void assign(Tensor& t, std::span<const T> values, const Shape& shape, Device& device) {
  RK_CHECK(static_cast<int64_t>(values.size()) == shape.numel(), "[assign] ", values.size(),
           " values for shape ", shape);
  if (!t.defined() || t.shape() != shape) t = empty(shape, DTypeOf<T>::value, device);
  if (device.type() != DeviceType::kMeta) upload(values.data(), t);
}
std::vector<double> to_doubles(const Tensor& t);

// The values of a tensor as they are when the work before it is done; nobody waits until values() is called.
class Readback {
 public:
  explicit Readback(const Tensor& t);
  std::vector<double> values();

 private:
  int64_t numel_;
  DType dtype_;
  std::unique_ptr<Pending> pending_;  // of a GPU
  std::vector<double> values_;        // of the host
};

}  // namespace rookery
