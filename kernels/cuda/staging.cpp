#include "kernels/cuda/staging.h"

#include <algorithm>
#include <cstring>

namespace rookery::cuda {

void Staging::upload(const void* host, std::byte* to, size_t bytes, const Stream& stream) {
  const auto* from = static_cast<const std::byte*>(host);
  for (size_t done = 0; done < bytes;) {
    const Buffer& buffer = buffers_[next_++ % buffers_.size()];
    const size_t part = std::min(kBytes, bytes - done);
    buffer.read.synchronize();
    std::memcpy(buffer.memory.data(), from + done, part);
    RK_CUDA(cudaMemcpyAsync(to + done, buffer.memory.data(), part, cudaMemcpyHostToDevice, stream.native()));
    stream.record(buffer.read);
    done += part;
  }
}

}  // namespace rookery::cuda
