// blas_lt.h: matrix products of one stream through cuBLASLt. Descriptors and the choice of the algorithm are
// made once for each shape; the choice is measured, and kept on disk for the next process on this kind of
// GPU.
#pragma once

#include <cublasLt.h>

#include <array>
#include <compare>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/product_choices.h"
#include "kernels/cuda/stream.h"

namespace rookery::cuda {

class BlasLt {
 public:
  // What Hopper is said to need is 32 MiB; split sums take more.
  static constexpr size_t kWorkspaceBytes = size_t{64} << 20;

  // deterministic: the library's first choice, with no measurement that could turn out otherwise next time.
  // Every algorithm that is taken gives the same bits again. cache: folder of the file, or empty.
  BlasLt(const Stream& stream, std::string gpu, bool deterministic, const std::filesystem::path& cache);
  ~BlasLt();
  BlasLt(const BlasLt&) = delete;
  BlasLt& operator=(const BlasLt&) = delete;

  // capturing: a graph is being recorded, so nothing can be measured now.
  void run(const Product& p, bool capturing);

 private:
  struct Plan;
  Plan& plan(const ProductKey& key, const Product& p, bool capturing);
  void choose(Plan& plan, const Product& p, bool capturing);
  float milliseconds(const Plan& plan, const cublasLtMatmulAlgo_t& algo, const Product& p, void* scratch);
  cublasStatus_t launch(const Plan& plan, const cublasLtMatmulAlgo_t& algo, const Product& p, void* c);
  static ProductKey key_of(const Product& p);
  void read_cache();
  void write_cache() const;

  const Stream& stream_;
  std::string gpu_;
  bool deterministic_;
  std::filesystem::path file_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<ProductKey, std::unique_ptr<Plan>> plans_;
  ProductChoices chosen_;  // as the file has it
};

}  // namespace rookery::cuda
