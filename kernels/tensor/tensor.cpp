// tensor.cpp: creation, views, copies.
#include "kernels/tensor/tensor.h"

#include <type_traits>

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
  if (t.device().type() == DeviceType::kMeta) return;
  if (!t.device().on_host()) return t.device().accelerator().fill(t.raw(), 0, t.bytes());
  t.device().submit([to = t.raw(), bytes = t.bytes()] { std::memset(to, 0, bytes); });
}

namespace {
// What a graph cannot have; a GPU's device says the same (kernels/cuda/device.cpp).
constexpr const char* kCannotWait = "a graph cannot wait for the host";
constexpr const char* kMayChange = "the host's memory may be another when the graph runs";
}  // namespace

void download(const Tensor& from, void* host) {
  if (!from.device().on_host()) return from.device().accelerator().download(from.raw(), host, from.bytes());
  from.device().refuse_in_capture(kCannotWait);
  std::memcpy(host, from.raw(), from.bytes());
}

void upload(const void* host, const Tensor& to) {
  if (!to.device().on_host()) return to.device().accelerator().upload(host, to.raw(), to.bytes());
  to.device().refuse_in_capture(kMayChange);
  std::memcpy(to.raw(), host, to.bytes());
}

void refuse_dtype(DType found, const char* expected) {
  throw Error(ExitCode::kInternal, "", str("[dispatch] found ", found, ", expected ", expected));
}

namespace {

constexpr int64_t kCopyGrain = 1 << 18;  // bytes per thread below which waking it does not pay
constexpr int64_t kSumGrain = 1 << 16;   // elements, likewise

template <class F>
void dispatch_any_float(DType dtype, F&& body) {
  if (dtype == DType::kBF16) return body.template operator()<bf16>();
  dispatch_float(dtype, body);
}

// bf16 is read and written through float.
template <class To, class From>
To converted(From x) {
  if constexpr (std::is_same_v<From, bf16>) {
    return converted<To>(static_cast<float>(x));
  } else if constexpr (std::is_same_v<To, bf16>) {
    return bf16(static_cast<float>(x));
  } else {
    return static_cast<To>(x);
  }
}

// On the host, between tensors or memory of the host.
void convert(const std::byte* from, DType from_dtype, std::byte* to, DType to_dtype, int64_t n) {
  dispatch_any_float(from_dtype, [&]<class From>() {
    dispatch_any_float(to_dtype, [&]<class To>() {
      const From* in = reinterpret_cast<const From*>(from);
      To* out = reinterpret_cast<To*>(to);
      for (int64_t i = 0; i < n; ++i) out[i] = converted<To>(in[i]);
    });
  });
}

template <class From, class To>
void add_loop(const To* a, const From* b, To* out, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    if constexpr (std::is_same_v<To, bf16>) {
      out[i] = bf16(static_cast<float>(a[i]) + static_cast<float>(b[i]));
    } else {
      out[i] = a[i] + converted<To>(b[i]);
    }
  }
}

// out = a + b; out has the dtype of a.
void sum(const Tensor& a, const Tensor& b, const Tensor& out, std::string_view who) {
  const bool mixed = a.dtype() == DType::kF32 && b.dtype() == DType::kBF16;
  RK_CHECK(a.shape() == b.shape() && (a.dtype() == b.dtype() || mixed) && is_float(a.dtype()), who, " ",
           a.shape(), " ", a.dtype(), " and ", b.shape(), " ", b.dtype());
  if (a.device().type() == DeviceType::kMeta) return;
  if (!a.device().on_host()) return a.device().accelerator().sum(a, b, out);
  auto add = [&]<class From, class To>() {
    out.device().submit([&pool = out.device().pool(), n = a.numel(), a = a.data<To>(), b = b.data<From>(),
                         out = out.data<To>()] {
      parallel_for(pool, n, kSumGrain, [=](int64_t begin, int64_t end) { add_loop(a, b, out, begin, end); });
    });
  };
  if (mixed) return add.operator()<bf16, float>();
  dispatch_any_float(a.dtype(), [&]<class T>() { add.template operator()<T, T>(); });
}

// One of the two is on a GPU.
void copy_between(const Tensor& from, const Tensor& to) {
  Accelerator& gpu = (from.device().on_host() ? to : from).device().accelerator();
  const bool both = !from.device().on_host() && !to.device().on_host();
  if (from.dtype() == to.dtype()) {
    if (both) return gpu.copy(from.raw(), to.raw(), from.bytes());
    return from.device().on_host() ? upload(from.raw(), to) : download(from, to.raw());
  }
  if (both) return gpu.convert(from, to);
  std::vector<std::byte> staging((from.device().on_host() ? to : from).bytes());
  if (from.device().on_host()) {
    convert(from.raw(), from.dtype(), staging.data(), to.dtype(), from.numel());
    upload(staging.data(), to);
  } else {
    download(from, staging.data());
    convert(staging.data(), from.dtype(), to.raw(), to.dtype(), from.numel());
  }
}

}  // namespace

void copy(const Tensor& from, const Tensor& to) {
  RK_CHECK(from.shape() == to.shape(), "[copy] ", from.shape(), " to ", to.shape());
  RK_CHECK(from.dtype() == to.dtype() || (is_float(from.dtype()) && is_float(to.dtype())), "[copy] ",
           from.dtype(), " to ", to.dtype());
  if (from.device().type() == DeviceType::kMeta) return;
  if (!from.device().on_host() || !to.device().on_host()) return copy_between(from, to);
  if (&from.device() != &to.device()) {  // there and back
    to.device().refuse_in_capture(kMayChange);
    from.device().refuse_in_capture(kCannotWait);
  }
  const std::byte* source = from.raw();
  std::byte* target = to.raw();
  if (from.dtype() != to.dtype())
    return to.device().submit([=, from_dtype = from.dtype(), to_dtype = to.dtype(), n = from.numel()] {
      convert(source, from_dtype, target, to_dtype, n);
    });
  if (source == target) return;
  to.device().submit([=, &pool = to.device().pool(), bytes = static_cast<int64_t>(from.bytes())] {
    parallel_for(pool, bytes, kCopyGrain, [=](int64_t begin, int64_t end) {
      std::memcpy(target + begin, source + begin, static_cast<size_t>(end - begin));
    });
  });
}

void copy_columns(const Tensor& from, int64_t begin, int64_t count, const Tensor& to, int64_t at) {
  const int64_t B = from.dim(0), T = from.dim(1), S = to.dim(1);
  RK_CHECK(from.dtype() == to.dtype() && to.dim(0) == B && from.numel() * S == to.numel() * T && begin >= 0 &&
               count >= 0 && begin + count <= T && at >= 0 && at + count <= S,
           "[copy_columns] ", count, " from ", begin, " of ", from.shape(), " to ", at, " of ", to.shape());
  Device& device = to.device();
  if (device.type() == DeviceType::kMeta || B * count == 0) return;
  const size_t column = from.bytes() / static_cast<size_t>(B * T);
  const size_t from_pitch = static_cast<size_t>(T) * column, to_pitch = static_cast<size_t>(S) * column;
  const size_t bytes = static_cast<size_t>(count) * column;
  const std::byte* source = from.raw() + static_cast<size_t>(begin) * column;
  std::byte* target = to.raw() + static_cast<size_t>(at) * column;
  if (!device.on_host())
    return device.accelerator().copy_rows(source, from_pitch, target, to_pitch, bytes,
                                          static_cast<size_t>(B));
  device.submit([=, rows = static_cast<size_t>(B)] {
    for (size_t b = 0; b < rows; ++b) std::memcpy(target + b * to_pitch, source + b * from_pitch, bytes);
  });
}

void add_to(const Tensor& from, const Tensor& to) { sum(to, from, to, "[add_to]"); }

Tensor sum_of(const Tensor& a, const Tensor& b) {
  Tensor out = empty_like(a);
  sum(a, b, out, "[sum_of]");
  return out;
}

void check_shape(const Tensor& t, const Shape& expected, std::string_view who) {
  RK_CHECK(t.shape() == expected, who, " must be ", expected, ", is ", t.shape());
}

namespace {

std::vector<double> doubles_of(const std::byte* data, DType dtype, int64_t n) {
  std::vector<double> out(static_cast<size_t>(n));
  auto fill = [&]<class T>() {
    const T* from = reinterpret_cast<const T*>(data);
    for (size_t i = 0; i < out.size(); ++i) out[i] = converted<double>(from[i]);
  };
  switch (dtype) {
    case DType::kF64:
    case DType::kF32:
    case DType::kBF16:
      dispatch_any_float(dtype, fill);
      break;
    case DType::kI64:
      fill.operator()<int64_t>();
      break;
    case DType::kI32:
      fill.operator()<int32_t>();
      break;
    case DType::kU8:
      fill.operator()<uint8_t>();
      break;
  }
  return out;
}

}  // namespace

std::vector<double> to_doubles(const Tensor& t) {
  if (t.device().on_host()) {
    t.device().refuse_in_capture(kCannotWait);
    return doubles_of(t.raw(), t.dtype(), t.numel());
  }
  std::vector<std::byte> staging(t.bytes());
  download(t, staging.data());
  return doubles_of(staging.data(), t.dtype(), t.numel());
}

Readback::Readback(const Tensor& t) : numel_(t.numel()), dtype_(t.dtype()) {
  if (t.device().on_host()) {
    values_ = to_doubles(t);
  } else {
    pending_ = t.device().accelerator().begin_download(t.raw(), t.bytes());
  }
}

std::vector<double> Readback::values() {
  return pending_ ? doubles_of(pending_->wait(), dtype_, numel_) : values_;
}

}  // namespace rookery
