#include "kernels/cuda/staging.h"

#include <algorithm>
#include <cstring>

namespace rookery::cuda {

void Staging::upload(const void* host, std::byte* to, size_t bytes, const Stream& stream) {
  constexpr size_t kAlign = 64;
  const auto* from = static_cast<const std::byte*>(host);
  for (size_t done = 0; done < bytes;) {
    if (used_ == kBytes) {
      stream.record(buffers_[current_].read);
      current_ = 1 - current_;
      buffers_[current_].read.synchronize();
      used_ = 0;
    }
    std::byte* at = buffers_[current_].memory.data() + used_;
    const size_t part = std::min(kBytes - used_, bytes - done);
    std::memcpy(at, from + done, part);
    RK_CUDA(cudaMemcpyAsync(to + done, at, part, cudaMemcpyHostToDevice, stream.native()));
    used_ += (part + kAlign - 1) / kAlign * kAlign;
    done += part;
  }
}

}  // namespace rookery::cuda
