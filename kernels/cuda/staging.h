// staging.h: pinned memory between the host and a GPU. A copy from ordinary memory would hold up the host
// until the stream has come to it.
#pragma once

#include <array>
#include <cstddef>

#include "kernels/cuda/stream.h"

namespace rookery::cuda {

// Host memory that the GPU reads and writes by itself.
class Pinned {
 public:
  explicit Pinned(size_t bytes) { RK_CUDA(cudaMallocHost(&data_, bytes)); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() { cudaFreeHost(data_); }
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_ = nullptr;
};

// Two pinned buffers in turn: the host fills one, upload by upload, while the GPU reads the other. It waits
// only when one is full, and then for what it uploaded from the other before.
class Staging {
 public:
  static constexpr size_t kBytes = size_t{8} << 20;  // of each
  void upload(const void* host, std::byte* to, size_t bytes, const Stream& stream);

 private:
  struct Buffer {
    Pinned memory{kBytes};
    Event read;  // all of it, by the GPU
  };
  std::array<Buffer, 2> buffers_;
  size_t current_ = 0, used_ = 0;  // bytes of that one
};

}  // namespace rookery::cuda
