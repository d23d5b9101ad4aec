// stream.h: a queue of work on the current GPU, and the marks in it that others wait for.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

#include "kernels/cuda/check.h"

namespace rookery::cuda {

// A mark in a stream.
class Event {
 public:
  enum class Kind { kOrder, kTiming };
  explicit Event(Kind kind = Kind::kOrder) {
    RK_CUDA(
        cudaEventCreateWithFlags(&event_, kind == Kind::kTiming ? cudaEventDefault : cudaEventDisableTiming));
  }
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&&) = delete;
  ~Event() {
    if (event_) cudaEventDestroy(event_);
  }
  void synchronize() const {
    RK_CUDA(cudaEventSynchronize(event_));
  }  // the host waits; at once before record()
  cudaEvent_t native() const { return event_; }
  void finish() const noexcept { cudaEventSynchronize(event_); }  // the same where nothing may be thrown
  float milliseconds_since(const Event& begin) const {
    float elapsed = 0;
    RK_CUDA(cudaEventElapsedTime(&elapsed, begin.event_, event_));
    return elapsed;
  }

 private:
  friend class Stream;
  cudaEvent_t event_ = nullptr;
};

class Stream {
 public:
  // Non-blocking: the default stream, which others may use, does not hold it up.
  Stream() { RK_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  cudaStream_t native() const { return stream_; }
  void synchronize() const { RK_CUDA(cudaStreamSynchronize(stream_)); }
  void record(const Event& event) const { RK_CUDA(cudaEventRecord(event.event_, stream_)); }
  void wait(const Event& event) const { RK_CUDA(cudaStreamWaitEvent(stream_, event.event_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace rookery::cuda
