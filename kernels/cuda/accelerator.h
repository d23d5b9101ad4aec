// accelerator.h: what a GPU keeps while a Device uses it (device.cpp).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/blas_lt.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/staging.h"
#include "kernels/tensor/side_stream.h"

namespace rookery::cuda {

class GpuAccelerator : public Accelerator, public SideStream {
 public:
  GpuAccelerator(const DeviceOptions& options, std::string name);
  ~GpuAccelerator() override;

  std::string name() const override;
  void* stream() const override;
  void synchronize() override;
  std::byte* allocate(size_t bytes) override;
  void free(std::byte* data) noexcept override;
  Memory memory() const override;
  void upload(const void* host, std::byte* to, size_t bytes) override;
  void download(const std::byte* from, void* host, size_t bytes) override;
  std::unique_ptr<Pending> begin_download(const std::byte* from, size_t bytes) override;
  void copy(const std::byte* from, std::byte* to, size_t bytes) override;
  void copy_rows(const std::byte* from, size_t from_pitch, std::byte* to, size_t to_pitch, size_t bytes,
                 size_t rows) override;
  void fill(std::byte* to, unsigned char value, size_t bytes) override;
  void convert(const Tensor& from, const Tensor& to) override;
  void sum(const Tensor& a, const Tensor& b, const Tensor& out) override;
  std::unique_ptr<Replay> capture(const std::function<void()>& work) override;
  std::unique_ptr<Mark> mark() override;
  std::unique_ptr<Point> aside(const std::function<void()>& work) override;
  void join(const Point& point) override;
  void begin_range(const std::string& name) override;
  void end_range() override;

  BlasLt& blas() { return *blas_; }
  bool capturing() const { return capturing_; }

  void use() const;  // the GPU of this thread's calls from now on

 private:
  int index_;
  std::string name_;
  bool capturing_ = false;
  std::vector<std::byte*> freed_in_capture_;
  std::optional<Stream> stream_, side_;  // made once the GPU is chosen
  const Stream* current_ = nullptr;      // that of the two which takes the work
  std::optional<Staging> staging_;
  std::optional<BlasLt> blas_;
};

}  // namespace rookery::cuda
