// device.cpp: a GPU behind the interface of kernels/tensor/accelerator.h.
#include "kernels/cuda/device.h"

#include <nvtx3/nvToolsExt.h>

#include <utility>

#include "kernels/base/error.h"
#include "kernels/cuda/accelerator.h"
#include "kernels/cuda/elementwise.h"

namespace rookery::cuda {
namespace {

class Graph : public Replay {
 public:
  Graph(cudaGraph_t graph, const GpuAccelerator& gpu) : gpu_(gpu) {
    RK_CUDA(cudaGraphInstantiate(&run_, graph, 0));
  }
  ~Graph() override { cudaGraphExecDestroy(run_); }
  void run() override { RK_CUDA(cudaGraphLaunch(run_, static_cast<cudaStream_t>(gpu_.stream()))); }

 private:
  cudaGraphExec_t run_ = nullptr;
  const GpuAccelerator& gpu_;
};

class Readback : public Pending {
 public:
  Readback(const std::byte* from, size_t bytes, const Stream& stream) : memory_(bytes) {
    RK_CUDA(cudaMemcpyAsync(memory_.data(), from, bytes, cudaMemcpyDeviceToHost, stream.native()));
    stream.record(done_);
  }
  ~Readback() override { done_.finish(); }  // the copy may be under way where nobody waited for it
  const std::byte* wait() override {
    done_.synchronize();
    return memory_.data();
  }

 private:
  Pinned memory_;
  Event done_;
};

class TimingMark : public Mark {
 public:
  explicit TimingMark(const Stream& stream) { stream.record(event_); }
  double seconds_since(const Mark& earlier) const override {
    event_.synchronize();
    return 1e-3 *
           static_cast<double>(event_.milliseconds_since(static_cast<const TimingMark&>(earlier).event_));
  }

 private:
  Event event_{Event::Kind::kTiming};
};

// As nvidia-smi writes it: "GPU-6b8f..".
std::string uuid_text(const cudaUUID_t& uuid) {
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) {
    const auto byte = static_cast<unsigned char>(uuid.bytes[i]);
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

struct SidePoint : SideStream::Point {
  explicit SidePoint(const Stream& stream) { stream.record(event); }
  Event event;
};

}  // namespace

GpuAccelerator::GpuAccelerator(const DeviceOptions& options, std::string name)
    : index_(options.index), name_(std::move(name)) {
  use();
  stream_.emplace();
  side_.emplace();
  current_ = &*stream_;
  staging_.emplace();
  blas_.emplace(*stream_, name_, options.deterministic, options.cache);
}

GpuAccelerator::~GpuAccelerator() {
  cudaSetDevice(index_);
  cudaStreamSynchronize(side_->native());
  cudaStreamSynchronize(stream_->native());
}

void GpuAccelerator::use() const { RK_CUDA(cudaSetDevice(index_)); }

std::string GpuAccelerator::name() const { return name_; }
void* GpuAccelerator::stream() const {
  use();  // whoever asks is about to call CUDA with it
  return current_->native();
}
void GpuAccelerator::synchronize() {
  use();
  stream_->synchronize();
}

std::byte* GpuAccelerator::allocate(size_t bytes) {
  RK_CHECK(!capturing_, "[capture] ", bytes, " bytes are asked for that no plan of the arena foresaw");
  use();
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it is told by the return value
    return nullptr;
  }
  if (error != cudaSuccess) call_failed("cudaMalloc(&data, bytes)", error);
  return static_cast<std::byte*>(data);
}

void GpuAccelerator::free(std::byte* data) noexcept {
  if (capturing_) return freed_in_capture_.push_back(data);  // cudaFree would end the capture
  cudaSetDevice(index_);
  cudaFree(data);
}

Accelerator::Memory GpuAccelerator::memory() const {
  use();
  Memory memory;
  RK_CUDA(cudaMemGetInfo(&memory.free, &memory.total));
  return memory;
}

void GpuAccelerator::upload(const void* host, std::byte* to, size_t bytes) {
  RK_CHECK(!capturing_, "[capture] the host's memory may be another when the graph runs");
  use();
  staging_->upload(host, to, bytes, *current_);
}

void GpuAccelerator::download(const std::byte* from, void* host, size_t bytes) {
  RK_CHECK(!capturing_, "[capture] a graph cannot wait for the host");
  use();
  RK_CUDA(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, stream_->native()));
  stream_->synchronize();
}

std::unique_ptr<Pending> GpuAccelerator::begin_download(const std::byte* from, size_t bytes) {
  RK_CHECK(!capturing_, "[capture] a graph has no host to send to");
  use();
  return std::make_unique<Readback>(from, bytes, *stream_);
}

void GpuAccelerator::copy(const std::byte* from, std::byte* to, size_t bytes) {
  use();
  RK_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, current_->native()));
}

void GpuAccelerator::copy_rows(const std::byte* from, size_t from_pitch, std::byte* to, size_t to_pitch,
                               size_t bytes, size_t rows) {
  use();
  RK_CUDA(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, bytes, rows, cudaMemcpyDeviceToDevice,
                            current_->native()));
}

void GpuAccelerator::fill(std::byte* to, unsigned char value, size_t bytes) {
  use();
  RK_CUDA(cudaMemsetAsync(to, value, bytes, current_->native()));
}

void GpuAccelerator::convert(const Tensor& from, const Tensor& to) { cuda::convert({from, to}); }
void GpuAccelerator::sum(const Tensor& a, const Tensor& b, const Tensor& out) { cuda::sum({a, b, out}); }

std::unique_ptr<Replay> GpuAccelerator::capture(const std::function<void()>& work) {
  use();
  // Of this thread alone: others, such as the loader's, may go on calling CUDA.
  RK_CUDA(cudaStreamBeginCapture(stream_->native(), cudaStreamCaptureModeThreadLocal));
  capturing_ = true;
  cudaGraph_t graph = nullptr;
  auto end_capture = [&] {
    capturing_ = false;
    const cudaError_t error = cudaStreamEndCapture(stream_->native(), &graph);
    for (std::byte* data : std::exchange(freed_in_capture_, {})) free(data);
    return error;
  };
  try {
    work();
  } catch (...) {
    end_capture();
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  RK_CUDA(end_capture());
  const std::unique_ptr<CUgraph_st, decltype(&cudaGraphDestroy)> owner(graph, &cudaGraphDestroy);
  return std::make_unique<Graph>(graph, *this);
}

std::unique_ptr<Mark> GpuAccelerator::mark() {
  use();
  return std::make_unique<TimingMark>(*current_);
}

std::unique_ptr<SideStream::Point> GpuAccelerator::aside(const std::function<void()>& work) {
  RK_CHECK(current_ == &*stream_, "[aside] inside itself");
  use();
  const Event asked;
  stream_->record(asked);
  side_->wait(asked);
  current_ = &*side_;
  try {
    work();
  } catch (...) {
    current_ = &*stream_;
    throw;
  }
  current_ = &*stream_;
  return std::make_unique<SidePoint>(*side_);
}

void GpuAccelerator::join(const Point& point) {
  use();
  stream_->wait(static_cast<const SidePoint&>(point).event);
}

void GpuAccelerator::begin_range(const std::string& name) { nvtxRangePushA(name.c_str()); }
void GpuAccelerator::end_range() { nvtxRangePop(); }

Runtime inspect() {
  Runtime r;
  r.built = true;
  r.architectures = ROOKERY_CUDA_ARCHITECTURES;
  cudaRuntimeGetVersion(&r.toolkit);
  int count = 0;
  auto works = [&](cudaError_t error) {
    if (error != cudaSuccess) r.refusal = str(cudaGetErrorName(error), ", ", cudaGetErrorString(error));
    return error == cudaSuccess;
  };
  if (works(cudaDriverGetVersion(&r.driver)) && works(cudaGetDeviceCount(&count))) {
    for (int i = 0; i < count; ++i) {
      cudaDeviceProp p;
      int kilohertz = 0, mode = cudaComputeModeDefault;
      if (works(cudaGetDeviceProperties(&p, i)) &&
          works(cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, i)) &&
          works(cudaDeviceGetAttribute(&mode, cudaDevAttrComputeMode, i)))
        r.gpus.push_back({i, p.name, p.major, p.minor, p.totalGlobalMem, p.multiProcessorCount,
                          1e3 * static_cast<double>(kilohertz),
                          mode == cudaComputeModeDefault      ? ComputeMode::kDefault
                          : mode == cudaComputeModeProhibited ? ComputeMode::kProhibited
                                                              : ComputeMode::kExclusive,
                          "", uuid_text(p.uuid)});
    }
  }
  cudaGetLastError();  // a failed call must not show at the next kernel
  diagnose(r);
  return r;
}

Trial try_gpu(int index) {
  Trial trial;
  size_t total = 0;
  cudaError_t error = cudaSetDevice(index);
  if (error == cudaSuccess) error = cudaMemGetInfo(&trial.free_bytes, &total);
  trial.out_of_memory = error == cudaErrorMemoryAllocation;
  if (error != cudaSuccess) trial.refusal = str(cudaGetErrorName(error), ", ", cudaGetErrorString(error));
  cudaGetLastError();  // as above
  return trial;
}

std::unique_ptr<Device> make_device(const DeviceOptions& options) {
  const Runtime runtime = inspect();
  if (!runtime.problem.empty())
    fail(ExitCode::kUnavailable, runtime.problem_id, "device: cuda: ", runtime.problem);
  for (const Gpu& gpu : runtime.gpus) {
    if (gpu.index != options.index) continue;
    if (!gpu.problem.empty())
      fail(ExitCode::kUnavailable, "DEV-04", "device: cuda: GPU ", gpu.index, " (", gpu.name, ") has ",
           gpu.problem);
    return std::make_unique<Device>(std::make_unique<GpuAccelerator>(options, gpu.name), options.num_threads);
  }
  fail(ExitCode::kUnavailable, "DEV-06", "device: cuda: found ", runtime.gpus.size(),
       " GPUs, expected one of index ", options.index);
}

}  // namespace rookery::cuda
