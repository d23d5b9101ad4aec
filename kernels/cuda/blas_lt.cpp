// blas_lt.cpp: cuBLASLt counts columns first, so C = A B is computed as C^T = B^T A^T: its first operand is
// our B.
#include "kernels/cuda/blas_lt.h"

#include <dlfcn.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/io.h"
#include "kernels/cuda/accelerator.h"

namespace rookery::cuda {
namespace {

constexpr int kCandidates = 12;
constexpr int kRepetitions = 3;  // of a measurement, after one that is not counted
constexpr uint64_t kLargestCache = 8 << 20;

// The library is loaded when the first GPU is used: it is half a gigabyte, and a process that is linked with
// it starts a tenth of a second later.
#define RK_LT_FUNCTIONS(F)                \
  F(cublasLtCreate)                       \
  F(cublasLtDestroy)                      \
  F(cublasLtGetStatusName)                \
  F(cublasLtGetStatusString)              \
  F(cublasLtGetVersion)                   \
  F(cublasLtMatmul)                       \
  F(cublasLtMatmulAlgoCheck)              \
  F(cublasLtMatmulAlgoGetHeuristic)       \
  F(cublasLtMatmulDescCreate)             \
  F(cublasLtMatmulDescDestroy)            \
  F(cublasLtMatmulDescSetAttribute)       \
  F(cublasLtMatmulPreferenceCreate)       \
  F(cublasLtMatmulPreferenceDestroy)      \
  F(cublasLtMatmulPreferenceSetAttribute) \
  F(cublasLtMatrixLayoutCreate)           \
  F(cublasLtMatrixLayoutDestroy)

struct Library {
#define RK_LT_MEMBER(name) decltype(&::name) name = nullptr;
  RK_LT_FUNCTIONS(RK_LT_MEMBER)
#undef RK_LT_MEMBER
};

const Library& lt() {
  static const Library library = [] {
    const std::string name = str("libcublasLt.so.", CUBLAS_VER_MAJOR);
    void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    const std::string first = handle ? "" : dlerror();
    if (handle == nullptr)
      handle = dlopen(str(ROOKERY_CUBLAS_FOLDER, "/", name).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr)
      fail(ExitCode::kUnavailable, "CUDA-02", name, ": found ", first,
           ", expected the library of the CUDA toolkit; install it, or name its folder in LD_LIBRARY_PATH");
    Library found;
#define RK_LT_LOAD(function)                                                                   \
  found.function = reinterpret_cast<decltype(found.function)>(dlsym(handle, #function));       \
  if (found.function == nullptr)                                                               \
    fail(ExitCode::kUnavailable, "CUDA-02", name, ": has no " #function ", expected version ", \
         CUBLAS_VER_MAJOR, "; install the library of the CUDA toolkit that the program was built with");
    RK_LT_FUNCTIONS(RK_LT_LOAD)
#undef RK_LT_LOAD
    return found;
  }();
  return library;
}

[[noreturn]] void lt_failed(const char* call, cublasStatus_t status) {
  fail(ExitCode::kUnavailable, "CUDA-02", call, ": found ", lt().cublasLtGetStatusName(status), " (",
       lt().cublasLtGetStatusString(status),
       "), expected success; `rookery doctor` tells the library's version");
}

#define RK_LT(call)                                                                               \
  do {                                                                                            \
    if (const cublasStatus_t rk_status = (call); rk_status != CUBLAS_STATUS_SUCCESS) [[unlikely]] \
      lt_failed(#call, rk_status);                                                                \
  } while (false)

cudaDataType type_of(DType dtype) { return dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F; }

// The power of two, at most 16, that divides an address: fast algorithms read 16 bytes at once.
int alignment_of(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data) | 16;
  return static_cast<int>(address & (~address + 1));
}

AlgorithmWords words_of(const cublasLtMatmulAlgo_t& algo) {
  AlgorithmWords words;
  static_assert(sizeof words == sizeof algo.data);
  std::copy(std::begin(algo.data), std::end(algo.data), words.begin());
  return words;
}

cublasLtMatmulAlgo_t algorithm_of(const AlgorithmWords& words) {
  cublasLtMatmulAlgo_t algo;
  std::copy(words.begin(), words.end(), std::begin(algo.data));
  return algo;
}

struct Preference {
  Preference() { RK_LT(lt().cublasLtMatmulPreferenceCreate(&handle)); }
  ~Preference() { lt().cublasLtMatmulPreferenceDestroy(handle); }
  template <class T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    RK_LT(lt().cublasLtMatmulPreferenceSetAttribute(handle, attribute, &value, sizeof value));
  }
  cublasLtMatmulPreference_t handle = nullptr;
};

struct Layout {
  Layout(DType dtype, int64_t rows, int64_t columns, int64_t ld) {
    RK_LT(lt().cublasLtMatrixLayoutCreate(&handle, type_of(dtype), static_cast<uint64_t>(rows),
                                          static_cast<uint64_t>(columns), ld));
  }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  ~Layout() { lt().cublasLtMatrixLayoutDestroy(handle); }
  cublasLtMatrixLayout_t handle = nullptr;
};

struct Operation {
  Operation(bool transposed_first, bool transposed_second) {
    RK_LT(lt().cublasLtMatmulDescCreate(&handle, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t first = transposed_first ? CUBLAS_OP_T : CUBLAS_OP_N,
                            second = transposed_second ? CUBLAS_OP_T : CUBLAS_OP_N;
    RK_LT(lt().cublasLtMatmulDescSetAttribute(handle, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first));
    RK_LT(lt().cublasLtMatmulDescSetAttribute(handle, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second));
  }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  ~Operation() { lt().cublasLtMatmulDescDestroy(handle); }
  cublasLtMatmulDesc_t handle = nullptr;
};

}  // namespace

struct BlasLt::Plan {
  Plan(const ProductKey& k, const Product& p)
      : key(k),
        operation(p.b.transposed, p.a.transposed),
        first(p.in, p.b.transposed ? p.k : p.n, p.b.transposed ? p.n : p.k, p.b.ld),
        second(p.in, p.a.transposed ? p.m : p.k, p.a.transposed ? p.k : p.m, p.a.ld),
        out(p.out, p.n, p.m, p.c.ld) {}
  ProductKey key;
  Operation operation;
  Layout first, second, out;
  cublasLtMatmulAlgo_t algo = {};
  bool chosen = false;  // false: the library's first choice, until it can be measured
};

BlasLt::BlasLt(const Stream& stream, std::string gpu, bool deterministic, const std::filesystem::path& cache)
    : stream_(stream), gpu_(std::move(gpu)), deterministic_(deterministic) {
  RK_LT(lt().cublasLtCreate(&handle_));
  RK_CUDA(cudaMalloc(&workspace_, kWorkspaceBytes));
  if (cache.empty() || deterministic) return;
  file_ = cache / choices_file_name(gpu_, lt().cublasLtGetVersion());
  read_cache();
}

BlasLt::~BlasLt() {
  plans_.clear();
  cudaFree(workspace_);
  lt().cublasLtDestroy(handle_);
}

ProductKey BlasLt::key_of(const Product& p) {
  return {p.m,
          p.n,
          p.k,
          p.a.ld,
          p.b.ld,
          p.c.ld,
          p.a.transposed,
          p.b.transposed,
          static_cast<int>(p.in),
          static_cast<int>(p.out),
          p.accumulate,
          alignment_of(p.a.data),
          alignment_of(p.b.data),
          alignment_of(p.c.data)};
}

cublasStatus_t BlasLt::launch(const Plan& plan, const cublasLtMatmulAlgo_t& algo, const Product& p, void* c) {
  const float one = 1, beta = p.accumulate ? 1 : 0;
  return lt().cublasLtMatmul(handle_, plan.operation.handle, &one, p.b.data, plan.first.handle, p.a.data,
                             plan.second.handle, &beta, c, plan.out.handle, c, plan.out.handle, &algo,
                             workspace_, kWorkspaceBytes, stream_.native());
}

void BlasLt::run(const Product& p, bool capturing) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {
    if (!p.accumulate)
      RK_CUDA(cudaMemset2DAsync(p.c.data, static_cast<size_t>(p.c.ld) * dtype_size(p.out), 0,
                                static_cast<size_t>(p.n) * dtype_size(p.out), static_cast<size_t>(p.m),
                                stream_.native()));
    return;
  }
  const Plan& chosen = plan(key_of(p), p, capturing);
  RK_LT(launch(chosen, chosen.algo, p, p.c.data));
}

BlasLt::Plan& BlasLt::plan(const ProductKey& key, const Product& p, bool capturing) {
  std::unique_ptr<Plan>& plan = plans_[key];
  if (plan == nullptr) plan = std::make_unique<Plan>(key, p);
  if (!plan->chosen) choose(*plan, p, capturing);
  return *plan;
}

void BlasLt::choose(Plan& plan, const Product& p, bool capturing) {
  if (const auto known = chosen_.find(plan.key); known != chosen_.end()) {
    const cublasLtMatmulAlgo_t algo = algorithm_of(known->second);
    cublasLtMatmulHeuristicResult_t result = {};
    if (lt().cublasLtMatmulAlgoCheck(handle_, plan.operation.handle, plan.first.handle, plan.second.handle,
                                     plan.out.handle, plan.out.handle, &algo,
                                     &result) == CUBLAS_STATUS_SUCCESS &&
        result.workspaceSize <= kWorkspaceBytes) {
      plan.algo = algo;
      plan.chosen = true;
      return;
    }
  }
  Preference preference;
  preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
  // Sums that are split are put together in a step of their own, in f32: no order that depends on who comes
  // first, and no part rounded to bf16.
  preference.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                 uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(plan.key.align_b));
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(plan.key.align_a));
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(plan.key.align_c));
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(plan.key.align_c));
  std::array<cublasLtMatmulHeuristicResult_t, kCandidates> results;
  int found = 0;
  RK_LT(lt().cublasLtMatmulAlgoGetHeuristic(handle_, plan.operation.handle, plan.first.handle,
                                            plan.second.handle, plan.out.handle, plan.out.handle,
                                            preference.handle, kCandidates, results.data(), &found));
  const auto end = std::remove_if(results.begin(), results.begin() + found,
                                  [](const auto& r) { return r.state != CUBLAS_STATUS_SUCCESS; });
  if (end == results.begin())
    fail(ExitCode::kUnavailable, "CUDA-02", gpu_, ": cuBLASLt knows no product of ", p.m, " x ", p.k, " and ",
         p.k, " x ", p.n, " (", p.in, " to ", p.out, ")");
  plan.algo = results[0].algo;
  plan.chosen = deterministic_;
  if (deterministic_ || capturing) return;
  plan.chosen = true;
  if (end - results.begin() == 1) return;

  // Measured on a C of its own: this one may hold a sum.
  void* memory = nullptr;
  const size_t bytes =
      (static_cast<size_t>(p.m - 1) * static_cast<size_t>(p.c.ld) + static_cast<size_t>(p.n)) *
      dtype_size(p.out);
  if (cudaMalloc(&memory, bytes) != cudaSuccess) {
    cudaGetLastError();  // no room to measure: the first choice will do
    return;
  }
  const std::unique_ptr<void, decltype(&cudaFree)> scratch(memory, &cudaFree);
  float best = std::numeric_limits<float>::infinity();
  for (auto r = results.begin(); r != end; ++r) {
    const float time = milliseconds(plan, r->algo, p, scratch.get());
    if (time < best) {
      best = time;
      plan.algo = r->algo;
    }
  }
  chosen_[plan.key] = words_of(plan.algo);
  read_cache();  // other processes may have written meanwhile
  write_cache();
}

// The fastest of a few runs; infinite where the algorithm does not run.
float BlasLt::milliseconds(const Plan& plan, const cublasLtMatmulAlgo_t& algo, const Product& p,
                           void* scratch) {
  const Event begin(Event::Kind::kTiming), end(Event::Kind::kTiming);
  float best = std::numeric_limits<float>::infinity();
  for (int i = 0; i <= kRepetitions; ++i) {
    stream_.record(begin);
    if (launch(plan, algo, p, scratch) != CUBLAS_STATUS_SUCCESS) return best;
    stream_.record(end);
    end.synchronize();
    if (i > 0) best = std::min(best, end.milliseconds_since(begin));
  }
  return best;
}

void BlasLt::read_cache() {
  std::string text;
  try {
    text = io::read_file(file_, kLargestCache);
  } catch (const Error&) {
    return;  // not there, or not ours: it is measured again
  }
  for (const auto& [key, words] : choices_from(text)) chosen_.try_emplace(key, words);
}

void BlasLt::write_cache() const {
  if (file_.empty()) return;
  try {
    io::create_directories(file_.parent_path());
    io::write_file_atomic(file_, choices_text(chosen_), "cuda.products");
  } catch (const Error&) {
    // It only saves the time to measure again.
  }
}

std::string blas_version() {
  const size_t version = lt().cublasLtGetVersion();  // 130002: 13.0.2
  return str(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

void product(Device& device, const Product& p) {
  auto& gpu = static_cast<GpuAccelerator&>(device.accelerator());
  gpu.use();
  gpu.blas().run(p, gpu.capturing());
}

}  // namespace rookery::cuda
