// accelerator.h: what a Device asks of a GPU. Tensors, arena and tape know only this; kernels/cuda implements
// it.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace rookery {

class Tensor;

// A piece of a step that can be repeated as it was (Device::capture).
class Replay {
 public:
  virtual ~Replay() = default;
  virtual void run() = 0;
};

// Bytes on their way to the host.
class Pending {
 public:
  virtual ~Pending() = default;
  virtual const std::byte* wait() = 0;  // valid as long as this object
};

// A point in the work of a GPU (Accelerator::mark).
class Mark {
 public:
  virtual ~Mark() = default;
  virtual double seconds_since(const Mark& earlier) const = 0;  // waits until the work before both is done
};

// Memory and one stream of work on a GPU. Copies, fills and kernels are done in the order of the calls; the
// host waits where a comment says so. Throws Error with the name of the failing call (kernels/cuda/check.h).
class Accelerator {
 public:
  virtual ~Accelerator() = default;
  virtual std::string name() const = 0;  // "NVIDIA H200"
  virtual void* stream() const = 0;      // the native handle (cudaStream_t)
  virtual void synchronize() = 0;        // waits until all is done

  virtual std::byte* allocate(size_t bytes) = 0;  // null where there is not so much left
  virtual void free(std::byte* data) noexcept = 0;
  struct Memory {
    size_t free = 0, total = 0;  // bytes, of all processes
  };
  virtual Memory memory() const = 0;

  virtual void upload(const void* host, std::byte* to, size_t bytes) = 0;      // `host` may change at once
  virtual void download(const std::byte* from, void* host, size_t bytes) = 0;  // waits
  virtual std::unique_ptr<Pending> begin_download(const std::byte* from, size_t bytes) = 0;
  virtual void copy(const std::byte* from, std::byte* to, size_t bytes) = 0;
  // `rows` pieces of so many bytes, which begin a pitch of bytes apart.
  virtual void copy_rows(const std::byte* from, size_t from_pitch, std::byte* to, size_t to_pitch,
                         size_t bytes, size_t rows) = 0;
  virtual void fill(std::byte* to, unsigned char value, size_t bytes) = 0;
  virtual void convert(const Tensor& from, const Tensor& to) = 0;             // f32 and bf16
  virtual void sum(const Tensor& a, const Tensor& b, const Tensor& out) = 0;  // out = a + b

  // What `work` launches, noted without being run.
  virtual std::unique_ptr<Replay> capture(const std::function<void()>& work) = 0;

  // The end of the work asked for so far.
  virtual std::unique_ptr<Mark> mark() = 0;
  // What is launched in between has this name in profiles.
  virtual void begin_range(const std::string& name) = 0;
  virtual void end_range() = 0;
};

}  // namespace rookery
